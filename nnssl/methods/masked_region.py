"""Masked region prediction: hide blocks (or one box) of a crop and predict them from the rest.

Blocks: masked autoencoding with a convolutional U-Net, as the 3D MAE of Wald et al. (CVPR 2025, arXiv 2410.23132):
zero-filled input, nnU-Net's decoder, L2 on the hidden voxels, no per-patch normalisation of the target. Box: the
single hidden region of Tariq et al. 2024 (J. Med. Imaging 11:064003), loss on the region and on the whole image.
"""

from __future__ import annotations

from math import prod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses import masked_mse
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.networks import ReconstructionUNet, total_stride
from nnssl.views import Geometry, expand_blocks, inside_box, random_block_mask, random_box_mask, random_spatial


class MaskedRegionConfig(MethodConfig):
    """Options of `-m masked_region`."""

    mask: Literal["blocks", "box"] = Field("blocks", description="hide a random set of blocks, or one box")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of blocks to hide (mask=blocks)")
    block: int | list[int] | None = Field(
        None, description="block edge in voxels, one number or one per axis; default: the encoder's total stride"
    )
    box_share: float = Field(0.05, gt=0, lt=1, description="share of the crop that the box hides (mask=box)")
    visible_weight: float | None = Field(
        None, ge=0, description="weight of L2 on visible voxels; default 0 for blocks, 1 for a box (loss on the whole)"
    )
    p_flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring, per axis")
    p_rotation: float = Field(0.2, ge=0, le=1, description="probability of a rotation, per crop")
    p_scaling: float = Field(0.2, ge=0, le=1, description="probability of scaling by 0.7-1.4, per crop")


class MaskedRegion(Method):
    """Masked region prediction with the plans' whole U-Net."""

    name: ClassVar[str] = "masked_region"
    Config: ClassVar[type[MethodConfig]] = MaskedRegionConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Wald et al. 2025, Revisiting MAE pre-training for 3D medical image segmentation, CVPR; "
        "He et al. 2022, Masked autoencoders are scalable vision learners, CVPR"
    )
    config: MaskedRegionConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        self.block = self._block_size(total_stride(unet.encoder))  # type: ignore[arg-type]
        self.network = ReconstructionUNet(unet, channels)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`target` (B, C, ...), `visible` and `inside` (B, 1, ...) bool: shown to the network, part of the image."""
        c = self.config
        size = self.geometry.patch_size
        target, inside = crops.images, inside_box(crops.inside, size)
        if self.training:
            target, inside = random_spatial(
                target,
                inside,
                self.geometry,
                generator,
                p_flip=c.p_flip,
                p_rotation=c.p_rotation,
                p_scaling=c.p_scaling,
            )
        batch, device = target.shape[0], target.device
        if c.mask == "box":
            visible = random_box_mask(batch, size, c.box_share, generator, device)
        else:
            grid = [n // b for n, b in zip(size, self.block)]
            visible = expand_blocks(random_block_mask(batch, grid, c.mask_ratio, generator, device), self.block)
        return {"target": target, "visible": visible, "inside": inside}

    def forward(self, views: Views) -> Losses:
        """L2 on hidden voxels of the image, plus `visible_weight` times L2 on the visible ones."""
        target, visible, inside = views["target"], views["visible"], views["inside"]
        prediction = self.network(target * visible)
        hidden_mse = masked_mse(prediction, target, inside & ~visible)
        terms = {"hidden_mse": hidden_mse.detach()}
        total = hidden_mse
        weight = self._visible_weight()
        if weight > 0:
            visible_mse = masked_mse(prediction, target, inside & visible)
            terms["visible_mse"] = visible_mse.detach()
            total = total + weight * visible_mse
        return Losses(total, terms)

    def exported(self) -> Exported:
        """Encoder and nnU-Net decoder of the plans; the 1x1 head is thrown away."""
        unet = self.network.unet
        return Exported(unet.encoder, unet.decoder)  # type: ignore[arg-type]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Input, masked input, prediction, and the prediction put into the hidden places."""
        target, visible = views["target"], views["visible"]
        prediction = self.network(target * visible).float()
        return {
            "crop": target,
            "shown to the network": torch.where(visible, target, torch.nan),
            "network output": prediction,
            "hidden blocks filled in": torch.where(visible, target, prediction),
        }

    def _visible_weight(self) -> float:
        if self.config.visible_weight is not None:
            return self.config.visible_weight
        return 1.0 if self.config.mask == "box" else 0.0

    def _block_size(self, stride: tuple[int, ...]) -> tuple[int, ...]:
        """The block per axis; must divide the patch and leave something to choose."""
        size, chosen = self.geometry.patch_size, self.config.block
        if chosen is None:
            block = stride
        elif isinstance(chosen, int):
            block = tuple(min(chosen, n) for n in size)
        else:
            block = tuple(chosen)
        if len(block) != len(size) or any(b < 1 or n % b for n, b in zip(size, block)):
            raise NnsslError(
                f"block={list(block)} must divide the patch size {list(size)} on every axis; "
                f"the encoder's total stride {list(stride)} does"
            )
        if self.config.mask == "blocks" and prod(n // b for n, b in zip(size, block)) < 2:
            raise NnsslError(f"block={list(block)} covers the whole patch {list(size)}: use smaller blocks")
        return block
