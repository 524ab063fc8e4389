"""Slow and obvious: overlaps by counting voxels, and VoCo's losses, pair by pair."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.oracles.nt_xent import cosine


def grid_overlap(place: tuple[int, ...], size: tuple[int, ...], cells: tuple[int, ...]) -> list[float]:
    """Share of the voxels of a crop at `place` that lie in each cell; cells in row-major order."""
    counts = dict.fromkeys(itertools.product(*(range(k) for k in cells)), 0)
    for offset in itertools.product(*(range(n) for n in size)):
        counts[tuple((p + o) // n for p, o, n in zip(place, offset, size))] += 1
    return [count / math.prod(size) for count in counts.values()]


def overlap_loss(predicted: np.ndarray, overlap: np.ndarray, counts: np.ndarray) -> float:
    """Mean of -log(1 - |overlap - predicted|)."""
    losses = [
        -math.log(1 - abs(float(overlap[b, q, n]) - float(predicted[b, q, n])))
        for b, q, n in itertools.product(*(range(k) for k in predicted.shape))
        if counts[b, n]
    ]
    return sum(losses) / len(losses) if losses else 0.0


def cell_similarity(cells: np.ndarray, counts: np.ndarray) -> float:
    """Mean squared positive cosine over the pairs of cells of one crop."""
    found = []
    for b in range(len(cells)):
        for i, j in itertools.combinations(range(cells.shape[1]), 2):
            if counts[b, i] and counts[b, j]:
                found.append(max(cosine(cells[b, i], cells[b, j]), 0.0) ** 2)
    return sum(found) / len(found) if found else 0.0
