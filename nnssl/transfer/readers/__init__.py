"""Readers of weight files, one per format: `recognises(content)` and `read(content, where) -> Weights`."""
