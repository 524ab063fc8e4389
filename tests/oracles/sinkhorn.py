"""Slow and obvious: Sinkhorn-Knopp on a plain matrix, without logarithms."""

from __future__ import annotations

import math

import numpy as np


def sinkhorn(scores: np.ndarray, epsilon: float, iterations: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Columns to equal sums of weighted rows, then rows to 1, again and again."""
    n, k = scores.shape
    weight = np.ones(n) if weight is None else weight
    q = [[math.exp(scores[i, j] / epsilon) for j in range(k)] for i in range(n)]
    for _ in range(iterations):
        for j in range(k):
            mass = sum(weight[i] * q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] *= weight.sum() / k / mass
        for i in range(n):
            total = sum(q[i])
            for j in range(k):
                q[i][j] /= total
    return np.array(q)
