"""Slow and obvious: the Barlow Twins loss, correlation by correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def barlow_twins(z1: np.ndarray, z2: np.ndarray, redundancy: float, joint: bool = False) -> float:
    """Sum of (1 - C_ii)^2 and redundancy * C_ij^2, C_ij the correlation of dimension i of z1 and j of z2.

    With `joint`, means and standard deviations are those of both views' values together.
    """
    loss = 0.0
    for i in range(z1.shape[1]):
        for j in range(z2.shape[1]):
            x, y = z1[:, i], z2[:, j]
            mx, sx = _moments([*x, *z2[:, i]] if joint else x)
            my, sy = _moments([*z1[:, j], *y] if joint else y)
            c = sum((a - mx) * (b - my) for a, b in zip(x, y)) / len(x) / sx / sy
            loss += (1 - c) ** 2 if i == j else redundancy * c**2
    return float(loss)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
