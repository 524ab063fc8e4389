"""Slow and obvious: cosine similarity, row by row."""

from __future__ import annotations

import math

import numpy as np


def negative_cosine(prediction: np.ndarray, target: np.ndarray) -> float:
    """Minus the mean cosine of the angle between rows."""
    total = 0.0
    for p, t in zip(prediction, target):
        dot = sum(a * b for a, b in zip(p, t))
        total -= dot / math.sqrt(sum(a * a for a in p)) / math.sqrt(sum(b * b for b in t))
    return total / len(prediction)
