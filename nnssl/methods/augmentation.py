"""Mirroring, rotation and scaling of the crop as a whole, for methods that draw what is missing or spoilt."""

from __future__ import annotations

import torch
from pydantic import Field

from nnssl.methods.base import CropBatch, Method, MethodConfig
from nnssl.views import inside_box, random_spatial


class AugmentationConfig(MethodConfig):
    """Options of every method that turns input and target alike."""

    p_flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring, per axis")
    p_rotation: float = Field(0.2, ge=0, le=1, description="probability of a rotation, per crop")
    p_scaling: float = Field(0.2, ge=0, le=1, description="probability of scaling by 0.7-1.4, per crop")


def augmented(
    method: Method, config: AugmentationConfig, crops: CropBatch, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, C, *spatial) and their image masks (B, 1, *spatial) bool; turned, in training mode only, at random."""
    images, inside = crops.images, inside_box(crops.inside, method.geometry.patch_size)
    if not method.training:
        return images, inside
    return random_spatial(
        images,
        inside,
        method.geometry,
        generator,
        p_flip=config.p_flip,
        p_rotation=config.p_rotation,
        p_scaling=config.p_scaling,
    )
