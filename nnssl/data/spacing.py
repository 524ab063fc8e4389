"""Spacing of crops, also where the plans leave a case's slices as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLICE_SPACING = "nnssl_slice_spacing"
"""Key of a plans' configuration: typical slice spacing in mm where `spacing` names the in-plane axes only."""


def crop_spacing(configuration: Mapping[str, Any]) -> tuple[float, ...]:
    """Voxel spacing of a configuration's crops in mm, one number per axis of the patch.

    A 3D configuration whose `spacing` has two entries leaves the slices of each case as they are (as 2D configurations
    do in nnU-Net); what views and masks need to know is then the typical slice spacing.

    Args:
        configuration: of the plans, inheritance resolved.
    """
    spacing = tuple(float(s) for s in configuration["spacing"])
    if len(spacing) < len(configuration["patch_size"]) and SLICE_SPACING in configuration:
        return (float(configuration[SLICE_SPACING]), *spacing)
    return spacing
