"""Slow and obvious: contrast, anchor by anchor."""

from __future__ import annotations

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def nt_xent(z1: np.ndarray, z2: np.ndarray, temperature: float, allowed: np.ndarray) -> tuple[float, float]:
    """SimCLR's equation 1: mean loss, and share of anchors that are closest to their positive."""
    losses, right = [], []
    for anchors, others in ((z1, z2), (z2, z1)):
        for i in range(len(z1)):
            positive = cosine(anchors[i], others[i])
            rest = [
                cosine(anchors[i], view[j]) for view in (z1, z2) for j in range(len(z1)) if j != i and allowed[i, j]
            ]
            if not rest:
                continue
            denominator = sum(math.exp(s / temperature) for s in [positive, *rest])
            losses.append(-math.log(math.exp(positive / temperature) / denominator))
            right.append(positive > max(rest))
    return (float(np.mean(losses)), float(np.mean(right))) if losses else (0.0, 0.0)
