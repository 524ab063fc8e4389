"""Masked region prediction: hide blocks (or one box) of a crop and predict them from the rest.

Blocks: masked autoencoding with a convolutional U-Net, as the 3D MAE of Wald et al. (CVPR 2025, arXiv 2410.23132):
zero-filled input, nnU-Net's decoder, L2 on the hidden voxels, no per-patch normalisation of the target. Box: the
single hidden region of Tariq et al. 2024 (J. Med. Imaging 11:064003), loss on the region and on the whole image.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses import masked_mse
from nnssl.methods.augmentation import augmented
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.methods.masking import MaskingConfig, before_and_after, block_edges
from nnssl.networks import ReconstructionUNet, total_stride
from nnssl.views import Geometry, expand_blocks, random_block_mask, random_box_mask


class MaskedRegionConfig(MaskingConfig):
    """Options of `-m masked_region`."""

    mask: Literal["blocks", "box"] = Field("blocks", description="hide a random set of blocks, or one box")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of blocks to hide (mask=blocks)")
    box_share: float = Field(0.05, gt=0, lt=1, description="share of the crop that the box hides (mask=box)")
    visible_weight: float | None = Field(
        None, ge=0, description="weight of L2 on visible voxels; default 0 for blocks, 1 for a box (loss on the whole)"
    )


class MaskedRegion(Method):
    """Masked region prediction with the plans' whole U-Net."""

    name: ClassVar[str] = "masked_region"
    Config: ClassVar[type[MethodConfig]] = MaskedRegionConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=6e-3, width=16, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Wald et al. 2025, Revisiting MAE pre-training for 3D medical image segmentation, CVPR; "
        "He et al. 2022, Masked autoencoders are scalable vision learners, CVPR"
    )
    crops_alone: ClassVar[bool] = True
    config: MaskedRegionConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        stride = total_stride(unet.encoder)  # type: ignore[arg-type]
        choice = self.config.mask == "blocks"
        self.block = block_edges(self.config.block, geometry.patch_size, stride, choice=choice)
        self.network = ReconstructionUNet(unet, channels)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`target` (B, C, ...), `visible` and `inside` (B, 1, ...) bool: shown to the network, part of the image."""
        c = self.config
        size = self.geometry.patch_size
        target, inside = augmented(self, c, crops, generator)
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
        hidden_mse = masked_mse(prediction, target, inside & ~visible, self.ranks)
        terms = {"hidden_mse": hidden_mse.detach()}
        total = hidden_mse
        weight = self._visible_weight()
        if weight > 0:
            visible_mse = masked_mse(prediction, target, inside & visible, self.ranks)
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
        return before_and_after(target, visible, prediction)

    def _visible_weight(self) -> float:
        if self.config.visible_weight is not None:
            return self.config.visible_weight
        return 1.0 if self.config.mask == "box" else 0.0
