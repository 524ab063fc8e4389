"""Target spacing for a pool of CT scans: what a scan has, not finer than useful, and small enough to work with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_VOXELS = {"S": 3e6, "M": 12e6, "L": 24e6, "XL": 36e6}
"""Voxels of the median case at the target spacing. About six patches of the size's 3D network, so that a patch spans half
a typical scan along each axis: what nnU-Net's low-resolution stage is for."""

MAX_RATIO = 3.5
"""Between slice and in-plane spacing; nnU-Net stops treating axes alike above 3."""
MOST_FOR_RATIO = 2.0
"""Thick slices are no reason to coarsen the in-plane spacing by more than this factor."""
COARSEST_FOR_SIZE = 3.0
"""mm: a scan of the whole body is no reason to blur it; it has more crops instead."""


def slice_axis(spacings: Sequence[Sequence[float]]) -> int:
    """The axis across slices: the one whose spacing differs from two that agree; the first where all agree.

    Args:
        spacings: (cases, 3) in mm, array order.
    """
    logs = np.log(np.asarray(spacings, dtype=float))
    apart = [float(np.median(np.abs(logs[:, b] - logs[:, c]))) for b, c in ((1, 2), (0, 2), (0, 1))]
    return int(np.argmin(np.round(apart, 3)))


def ct_target_spacing(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], max_voxels: float
) -> np.ndarray:
    """Target spacing of a pool.

    1. The median of the pool along each axis; thick slices are kept, none are invented for the typical case.
    2. Slices thinner than the in-plane spacing are coarsened to it.
    3. Where slices are more than `MAX_RATIO` times as thick as the in-plane spacing, the latter is coarsened, at most by
       `MOST_FOR_RATIO`.
    4. Where the median case has more than `max_voxels` then, the finest axes are coarsened together until it has not,
       up to `COARSEST_FOR_SIZE`.

    Args:
        spacings: (cases, 3) in mm, array order.
        shapes: (cases, 3) in voxels.
        max_voxels: of the median case.

    Returns:
        (3,) in mm, array order.
    """
    spacing = np.median(np.asarray(spacings, dtype=float), axis=0)
    through = slice_axis(spacings)
    plane = [a for a in range(3) if a != through]
    spacing[through] = max(spacing[through], *spacing[plane])
    if np.median([shape[through] for shape in shapes]) > 1:  # the spacing of single slices means nothing
        wanted = np.minimum(spacing[through] / MAX_RATIO, MOST_FOR_RATIO * spacing[plane])
        spacing[plane] = np.maximum(spacing[plane], wanted)
    extent = np.median(np.asarray(spacings, dtype=float) * np.asarray(shapes, dtype=float), axis=0)
    return np.maximum(spacing, min(_edge(extent, spacing, max_voxels), COARSEST_FOR_SIZE))


def _edge(extent: np.ndarray, spacing: np.ndarray, max_voxels: float) -> float:
    """Least e in mm so that a case of `extent` mm has at most `max_voxels` at max(spacing, e); 0 where any e will do."""
    if np.prod(extent / spacing) <= max_voxels:
        return 0.0
    volume = float(np.prod(extent)) / max_voxels
    order = np.sort(spacing)
    for coarsened in (1, 2):  # finest axes that are made equal
        edge = float((volume / np.prod(order[coarsened:])) ** (1 / coarsened))
        if edge <= order[coarsened]:
            return edge
    return volume ** (1 / 3)
