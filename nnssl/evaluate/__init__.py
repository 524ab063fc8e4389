"""Evaluation of pretrained encoders: studies, classification, embeddings, probes, reports."""

LARGEST_SEED = 2**32 - 1
"""That scikit-learn takes."""
