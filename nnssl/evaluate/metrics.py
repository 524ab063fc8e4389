"""Metrics of a segmentation against its reference, in the image's own grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask

METRICS = ("dice", "iou", "hd95", "nsd")
LARGER_IS_BETTER = {"dice": True, "iou": True, "hd95": False, "nsd": True}
TOLERANCE_MM = 2.0
"""Default distance within which two surfaces count as the same in the normalised surface Dice."""


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[str, int | tuple[int, ...]],
    tolerance: float = TOLERANCE_MM,
    ignore: int | None = None,
) -> dict[str, dict[str, float]]:
    """Dice, intersection over union, 95 % Hausdorff distance and normalised surface Dice of every label.

    Distances are MONAI's. Where a label is in neither image nothing is defined (NaN). Where it is in one of them only, Dice,
    IoU and surface Dice are 0 and the distance is not defined: look at how many cases its mean is over.

    Args:
        prediction, reference: (*spatial) labels; (1, Y, X) is an image of one slice.
        spacing: mm, one per axis.
        labels: name -> label, or the labels of a region.
        tolerance: of the surface Dice, in mm (Nikolov et al. 2021, arXiv 1809.04430).
        ignore: nnU-Net's ignore label; its voxels do not count.

    Returns:
        Label name -> metric -> value; `hd95` in mm.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in size")
    found = {}
    counted = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    for name, label in labels.items():
        a = region_or_label_to_mask(prediction, label) & counted
        b = region_or_label_to_mask(reference, label) & counted
        both, size = int((a & b).sum()), int(a.sum()) + int(b.sum())
        if not size:
            found[name] = dict.fromkeys(METRICS, math.nan)
            continue
        hd95, nsd = surface_metrics(a, b, spacing, tolerance) if a.any() and b.any() else (math.nan, 0.0)
        found[name] = {"dice": 2.0 * both / size, "iou": both / (size - both), "hd95": hd95, "nsd": nsd}
    return found


def surface_metrics(a: np.ndarray, b: np.ndarray, spacing: Sequence[float], tolerance: float) -> tuple[float, float]:
    """95 % Hausdorff distance in mm and normalised surface Dice of two masks, neither of them empty."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice  # seconds to import

    if a.ndim == 3 and a.shape[0] == 1:
        a, b, spacing = a[0], b[0], spacing[-2:]
    box = _box(a | b)
    one, two = (torch.from_numpy(np.pad(m[box], 1))[None, None].float() for m in (a, b))
    mm = [float(s) for s in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=mm)
        surface = compute_surface_dice(one, two, [tolerance], include_background=True, spacing=mm, use_subvoxels=True)
    return float(distance), float(surface)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask: distances do not depend on what lies outside of it."""
    edges = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(tuple(i for i in range(mask.ndim) if i != axis)))
        edges.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(edges)
