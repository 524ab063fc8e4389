"""Slow and obvious: every block normalised on its own."""

from __future__ import annotations

import itertools

import numpy as np


def normalise_blocks(image: np.ndarray, inside: np.ndarray, block: tuple[int, ...], floor: float) -> np.ndarray:
    """(B, C, *spatial) -> the same, each block minus its mean and divided by its deviation, both over image voxels."""
    out = np.zeros_like(image)
    for b, c in itertools.product(range(image.shape[0]), range(image.shape[1])):
        for corner in itertools.product(*(range(0, n, s) for n, s in zip(image.shape[2:], block))):
            place = tuple(slice(i, i + s) for i, s in zip(corner, block))
            values = image[(b, c, *place)]
            counted = values[inside[(b, 0, *place)]]
            mean = counted.mean() if counted.size else 0.0
            std = max(counted.std(), floor) if counted.size else floor
            out[(b, c, *place)] = (values - mean) / std
    return out
