"""Slow and obvious: the masked error, voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np


def masked_mse(prediction: np.ndarray, target: np.ndarray, where: np.ndarray) -> float:
    """Mean squared difference over the voxels with where=True, all channels."""
    errors = []
    for b, c in itertools.product(range(target.shape[0]), range(target.shape[1])):
        for position in itertools.product(*(range(n) for n in target.shape[2:])):
            if where[(b, 0, *position)]:
                errors.append((float(prediction[(b, c, *position)]) - float(target[(b, c, *position)])) ** 2)
    return sum(errors) / len(errors) if errors else 0.0
