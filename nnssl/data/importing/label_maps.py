"""Telling label maps from images: folders hold both, and a pool must not train on segmentations."""

from __future__ import annotations

import numpy as np

FEW = 8
"""Whole-number images with at most this many different values are label maps."""

MANY = 256
"""With more different values than this it is an image."""

SAME_NEIGHBOURS = 0.5
"""Label maps are pieces of one value: in real ones 0.7 to 0.95 of the neighbours are equal, in images below 0.3."""


def label_values(volume: np.ndarray) -> int:
    """Number of different values if the volume looks like a label map, otherwise 0.

    Args:
        volume: (Z, Y, X), any numeric type.
    """
    sample = volume[tuple(slice(None, None, max(1, n // 24)) for n in volume.shape)]
    if not np.equal(np.round(sample), sample).all() or len(np.unique(sample)) > MANY:
        return 0  # a look at few voxels spares most images the rest
    values = np.unique(volume)
    if len(values) > MANY or not np.equal(np.round(values), values).all():
        return 0
    if len(values) <= FEW:
        return len(values)
    return len(values) if values[0] >= 0 and _equal_neighbours(volume) > SAME_NEIGHBOURS else 0


def _equal_neighbours(volume: np.ndarray) -> float:
    """Share of equal pairs among neighbours along x of which at least one is not the background 0."""
    left, right = volume[..., :-1], volume[..., 1:]
    either = (left != 0) | (right != 0)
    pairs = int(either.sum())
    return float((left == right)[either].sum() / pairs) if pairs else 1.0
