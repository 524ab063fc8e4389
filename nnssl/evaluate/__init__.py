"""Evaluation of pretrained encoders: studies, classification, embeddings, probes, reports."""
