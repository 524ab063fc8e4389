"""Slow and obvious: decoupled contrast, anchor by anchor."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.nt_xent import cosine


def dclw(z1: np.ndarray, z2: np.ndarray, temperature: float, sigma: float, allowed: np.ndarray) -> tuple[float, float]:
    """Mean loss, and share of anchors that are closer to their positive than to all negatives."""
    n = len(z1)
    anchors = [i for i in range(n) if any(allowed[i, j] for j in range(n) if j != i)]
    if not anchors:
        return 0.0, 0.0
    closeness = {i: math.exp(cosine(z1[i], z2[i]) / sigma) for i in anchors}
    mean = sum(closeness.values()) / len(closeness)
    losses, right = [], []
    for view in (z1, z2):
        for i in anchors:
            positive = cosine(z1[i], z2[i])
            rest = [cosine(view[i], other[j]) for other in (z1, z2) for j in range(n) if j != i and allowed[i, j]]
            weight = 2 - closeness[i] / mean
            losses.append(-weight * positive / temperature + math.log(sum(math.exp(s / temperature) for s in rest)))
            right.append(positive > max(rest))
    return float(np.mean(losses)), float(np.mean(right))
