"""Slow and obvious: VICReg, number by number."""

from __future__ import annotations

import math

import numpy as np


def vicreg(z1: np.ndarray, z2: np.ndarray, weights: tuple[float, float, float], gamma: float = 1.0) -> float:
    """lambda s + mu (v + v') + nu (c + c')."""
    n, width = z1.shape
    s = sum((z1[i, d] - z2[i, d]) ** 2 for i in range(n) for d in range(width)) / (n * width)
    v = c = 0.0
    for z in (z1, z2):
        mean = [sum(z[i, d] for i in range(n)) / n for d in range(width)]
        for a in range(width):
            for b in range(width):
                cov = sum((z[i, a] - mean[a]) * (z[i, b] - mean[b]) for i in range(n)) / (n - 1)
                if a == b:
                    v += max(0.0, gamma - math.sqrt(cov + 1e-4)) / width
                else:
                    c += cov**2 / width
    return float(weights[0] * s + weights[1] * v + weights[2] * c)
