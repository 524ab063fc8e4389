"""Classification and regression of whole cases with a pretrained encoder: fine-tuned, or frozen under a simple model."""
