"""How many crops show nothing: counted on the device, reported once per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nnssl.methods import CropBatch

EMPTY_BELOW = 0.05
"""Standard deviation of the normalised image below which a crop (or a slice) is empty, where an image has about 1.

Clipped air of CT has 0, air of MR up to about 0.05, tissue more: documentation/explanation/sampling.md has counts.
"""
MANY = 0.2


def intensity_scales(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> list[float]:
    """Standard deviation that each channel has in the stored cases, by its normalisation.

    Args:
        plans: with the intensity statistics of each channel.
        configuration: with the names of nnU-Net's normalisations.
    """
    scales = []
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        p = plans["foreground_intensity_properties_per_channel"].get(str(channel), {})
        std, width = p.get("std", 1.0), p.get("max", 1.0) - p.get("min", 0.0)
        known = {
            "NoNormalization": std,
            "RGBTo01Normalization": std / 255,
            "RescaleTo01Normalization": std / (width or 1),
        }
        scales.append(float(known.get(scheme, 1.0)) or 1.0)  # z-score and CT: one
    return scales


@torch.no_grad()
def empty_share(batch: CropBatch, scales_C: torch.Tensor) -> torch.Tensor:
    """Share of a batch's crops that are empty: the part that lies inside the image is flat in every channel.

    Outside the image a crop is zero, so sums over all of it are sums over the inside. Nothing waits for the device.

    Args:
        batch: crops (B, C, *spatial).
        scales_C: see `intensity_scales`; on the batch's device.

    Returns:
        Scalar on the batch's device.
    """
    voxels = (batch.inside[..., 1] - batch.inside[..., 0]).prod(dim=1)[:, None]  # (B, 1)
    flat = batch.images.flatten(2)
    mean = flat.sum(dim=2) / voxels
    variance = (flat.square().sum(dim=2) / voxels - mean.square()).clamp(min=0)
    return (variance < (EMPTY_BELOW * scales_C).square()).all(dim=1).float().mean()


def empty_advice(row: Mapping[str, Any], body_share: float) -> list[str]:
    """A sentence when many crops of an epoch were empty."""
    share = row["empty_crops"]
    if share <= MANY:
        return []
    fix = (
        f"raise body_share (--set body_share={min(1.0, body_share + 0.3):.1f}, now {body_share:g})"
        if body_share < 1
        else "let nnssl_plan_and_preprocess make the cases, so that they have body positions"
    )
    return [f"{100 * share:.0f} % of the crops show nothing but air or padding: {fix}"]
