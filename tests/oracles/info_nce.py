"""Slow and obvious: contrast with a list of keys, query by query."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.nt_xent import cosine


def info_nce(
    query: np.ndarray, key: np.ndarray, others: np.ndarray, temperature: float, allowed: np.ndarray
) -> tuple[float, float]:
    """MoCo's equation 1: mean loss, and share of queries that are closest to their key."""
    losses, right = [], []
    for i in range(len(query)):
        positive = cosine(query[i], key[i])
        rest = [cosine(query[i], others[j]) for j in range(len(others)) if allowed[i, j]]
        if not rest:
            continue
        denominator = sum(math.exp(s / temperature) for s in [positive, *rest])
        losses.append(-math.log(math.exp(positive / temperature) / denominator))
        right.append(positive > max(rest))
    return (float(np.mean(losses)), float(np.mean(right))) if losses else (0.0, 0.0)
