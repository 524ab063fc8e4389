"""SimMIM: hide blocks of the input behind a learned token and let the encoder alone predict their voxels.

Xie et al. 2022, SimMIM: a simple framework for masked image modeling (CVPR, arXiv 2111.09886): a large masked block, raw
voxels as target, L1 on masked voxels, and a head of one layer, so that the encoder has to do the work.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from nnssl.losses import masked_l1
from nnssl.methods.augmentation import augmented
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.methods.masking import MaskingConfig, before_and_after, block_edges
from nnssl.networks import VoxelHead, check_grid, total_stride
from nnssl.networks.mask_token import MaskToken
from nnssl.views import Geometry, expand_blocks, random_block_mask


class SimMIMConfig(MaskingConfig):
    """Options of `-m simmim`."""


class SimMIM(Method):
    """Masked voxels from the deepest stage of the plans' encoder."""

    name: ClassVar[str] = "simmim"
    Config: ClassVar[type[MethodConfig]] = SimMIMConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=0.05, clip=5.0)
    citation: ClassVar[str] = "Xie et al. 2022, SimMIM: a simple framework for masked image modeling, CVPR"
    crops_alone: ClassVar[bool] = True
    config: SimMIMConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        encoder: Any = unet.encoder
        size, stride = geometry.patch_size, total_stride(encoder)
        check_grid(encoder, size, [n // s for n, s in zip(size, stride)])
        self.block = block_edges(self.config.block, size, stride)
        self.grid = tuple(n // b for n, b in zip(size, self.block))
        self.encoder = encoder
        self.head = VoxelHead(encoder, channels)
        self.token = MaskToken(channels, self.block)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`image` (B, C, ...), `inside` (B, 1, ...) bool: part of the image; `visible` (B, 1, *grid) bool, per block."""
        image, inside = augmented(self, self.config, crops, generator)
        visible = random_block_mask(image.shape[0], self.grid, self.config.mask_ratio, generator, image.device)
        return {"image": image, "inside": inside, "visible": visible}

    def forward(self, views: Views) -> Losses:
        """L1 on the hidden voxels that are image."""
        image, visible = views["image"], views["visible"]
        where = views["inside"] & ~expand_blocks(visible, self.block)
        loss = masked_l1(self.reconstruct(image, visible), image, where, self.ranks)
        return Losses(loss, {"hidden_l1": loss.detach()})

    def reconstruct(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The network's answer.

        Args:
            image: (B, C, *spatial); what it holds in hidden blocks has no effect.
            visible: (B, 1, *grid) bool.

        Returns:
            (B, C, *spatial).
        """
        return self.head(self.encoder(self.token(image, visible))[-1])

    def exported(self) -> Exported:
        """The plans' encoder; token and head are thrown away, and there is no decoder."""
        return Exported(self.encoder)

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Crop, visible blocks, answer, and the answer put into the hidden blocks."""
        image, visible = views["image"], expand_blocks(views["visible"], self.block)
        answer = self.reconstruct(image, views["visible"]).float()
        return before_and_after(image, visible, answer)
