"""Slow and obvious: collapse metrics in numpy, from their definitions."""

from __future__ import annotations

import math

import numpy as np


def embedding_std(z: np.ndarray) -> float:
    """sqrt(D) times the mean over dimensions of the standard deviation (N - 1) of unit rows."""
    unit = [row / math.sqrt(sum(v * v for v in row)) for row in z]
    width, total = z.shape[1], 0.0
    for d in range(width):
        column = [row[d] for row in unit]
        mean = sum(column) / len(column)
        total += math.sqrt(sum((v - mean) ** 2 for v in column) / (len(column) - 1))
    return math.sqrt(width) * total / width


def effective_rank(z: np.ndarray) -> float:
    """exp of the entropy of the singular values, which are roots of the eigenvalues of the Gram matrix."""
    unit = np.stack([row / np.linalg.norm(row) for row in z])
    centred = unit - unit.mean(0)
    eigenvalues = np.linalg.eigvalsh(centred @ centred.T)
    singular = [math.sqrt(max(0.0, v)) for v in eigenvalues]
    shares = [s / sum(singular) for s in singular if s > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


def knn_agreement(z1: np.ndarray, z2: np.ndarray) -> float:
    """How often the second view with the smallest angle belongs to the same crop."""
    hits = 0
    for i, a in enumerate(z1):
        cosines = [float(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for b in z2]
        hits += int(max(range(len(z2)), key=cosines.__getitem__) == i)
    return hits / len(z1)
