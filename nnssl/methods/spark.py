"""SparK: masked reconstruction in which the encoder computes on the visible blocks only.

Tian et al. 2023, Designing BERT for convolutional networks: sparse and hierarchical masked modeling (ICLR, arXiv
2301.03580); in 3D with nnU-Net's own decoder it is S3D (Wald et al. 2025, CVPR). The zeros of a masked image would change
what a convolutional encoder sees (a share of masked pixels no real image has, and borders that are none); a sparse
encoder sees neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses import block_statistics, masked_mse, normalise_blocks, restore_blocks
from nnssl.methods.augmentation import augmented
from nnssl.methods.base import CropBatch, Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.masking import MaskingConfig, before_and_after, block_edges
from nnssl.methods.sparse_encoding import SparseEncoding
from nnssl.networks import (
    Densify,
    LightDecoder,
    check_grid,
    check_supported,
    decoder_features,
    drop_segmentation_layers,
    encode_sparse,
    spread_voxels,
    total_stride,
)
from nnssl.networks.unet import decoder_width
from nnssl.views import Geometry, expand_blocks, random_block_mask, visible_count

HEAD_STD = 0.02
"""Initial standard deviation of the head's weights: the first answer is about zero, so the first loss is about 1."""


class SparKConfig(MaskingConfig):
    """Options of `-m spark`."""

    block: int | list[int] | None = Field(
        None, description="block edge in voxels, one number or one per axis, a multiple of the encoder's total stride; "
        "default: that stride"
    )  # fmt: skip
    decoder_type: Literal["unet", "light"] = Field(
        "unet", description="nnU-Net's own decoder, exported too; or a narrow one that is thrown away"
    )
    light_width: int | None = Field(
        None, ge=8, description="channels of the light decoder at the deepest scale; default: half of the encoder's"
    )
    light_stop: int = Field(
        0, ge=0, description="scale at which the light decoder ends, 0 = full resolution; the head then predicts all "
        "voxels below a position at once"
    )  # fmt: skip
    target: Literal["block", "global"] = Field(
        "block",
        description="what to predict: each block normalised by its own mean and deviation, or the image as it is",
    )
    std_floor: float = Field(
        0.05,
        gt=0,
        description="smallest standard deviation of a block, in units of the normalised image (target=block)",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> SparKConfig:
        if self.light_stop and self.decoder_type != "light":
            raise ValueError(
                f"light_stop={self.light_stop} goes with decoder_type=light; nnU-Net's own ends at full resolution"
            )
        return self


class SparK(SparseEncoding):
    """Sparse and hierarchical masked modelling with the plans' encoder."""

    name: ClassVar[str] = "spark"
    Config: ClassVar[type[MethodConfig]] = SparKConfig
    # The published LAMB ramp of weight decay from 0.04 to 0.2 belongs to 1600 epochs; this is where it starts.
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=0.04, clip=5.0)
    citation: ClassVar[str] = (
        "Tian et al. 2023, Designing BERT for convolutional networks: sparse and hierarchical masked modeling, ICLR; "
        "Wald et al. 2025, Revisiting MAE pre-training for 3D medical image segmentation, CVPR"
    )
    crops_alone: ClassVar[bool] = True
    config: SparKConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        encoder: Any = unet.encoder
        stride = total_stride(encoder)
        check_supported(encoder)
        check_grid(encoder, geometry.patch_size, [n // s for n, s in zip(geometry.patch_size, stride)])
        self.block = block_edges(self.config.block, geometry.patch_size, stride, whole_strides=True)
        self.grid = tuple(n // b for n, b in zip(geometry.patch_size, self.block))
        self.encoder = encoder
        if self.config.decoder_type == "unet":
            drop_segmentation_layers(unet)
            decoder: Any = unet.decoder
            self.decoder = decoder
            widths = [int(c) for c in encoder.output_channels]
            head_width = decoder_width(decoder)
        else:
            _check_stop(encoder, self.config.light_stop)
            self.decoder = LightDecoder(encoder, self.config.light_width, self.config.light_stop)
            widths = self.decoder.widths
            head_width = widths[0]
        self.densify = Densify(encoder, widths)
        self.below = total_stride(encoder, self.config.light_stop)
        self.head = encoder.conv_op(head_width, channels * prod(self.below), kernel_size=1)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`image` (B, C, ...), `inside` (B, 1, ...) bool: part of the image; `visible` (B, 1, *grid) bool, per block."""
        image, inside = augmented(self, self.config, crops, generator)
        visible = random_block_mask(image.shape[0], self.grid, self.config.mask_ratio, generator, image.device)
        return {"image": image, "inside": inside, "visible": visible}

    def forward(self, views: Views) -> Losses:
        """L2 between answer and target on the hidden blocks, where they are image.

        The term `flat_mse` is what an answer of zero would score: about 1, less where many blocks are air.
        """
        image, inside, visible = views["image"], views["inside"], views["visible"]
        by_block = self.config.target == "block"
        target = normalise_blocks(image, *self._statistics(views)) if by_block else image
        where = inside & ~expand_blocks(visible, self.block)
        loss = masked_mse(self.reconstruct(image, visible), target, where, self.ranks)
        flat = masked_mse(torch.zeros_like(target), target, where, self.ranks)
        return Losses(loss, {"hidden_mse": loss.detach(), "flat_mse": flat})

    def reconstruct(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The network's answer from the visible blocks.

        Args:
            image: (B, C, *spatial); what it holds in hidden blocks has no effect.
            visible: (B, 1, *grid) bool.

        Returns:
            (B, C, *spatial), in units of the target.
        """
        dense = self.densify.project(*encode_sparse(self.encoder, image, visible, self.executor))
        if self.config.decoder_type == "unet":
            return self.head(decoder_features(self.decoder, dense))
        return spread_voxels(self.head(self.decoder(dense)), self.below)

    def visible_blocks(self) -> int:
        """What `views` leaves visible."""
        return visible_count(prod(self.grid), self.config.mask_ratio)

    def exported(self) -> Exported:
        """The plans' encoder, and nnU-Net's decoder if that was the decoder."""
        return Exported(self.encoder, self.decoder if self.config.decoder_type == "unet" else None)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Norms need positions: with few of them visible the deepest stage says little."""
        stride = total_stride(self.encoder)
        positions = self.visible_blocks() * prod(b // s for b, s in zip(self.block, stride))
        if positions >= 8:
            return []
        return [
            f"only {positions} positions of the deepest stage stay visible in a crop, and its norm is computed over them: "
            "lower mask_ratio, or plan with a larger patch"
        ]

    def health(self, row: Mapping[str, float]) -> list[str]:
        """An answer no better than zero says that nothing was learned."""
        if row.get("epoch", 0) < 10 or row.get("val_hidden_mse", 0.0) < 0.98 * row.get("val_flat_mse", 1.0):
            return []
        return ["val_hidden_mse has not left val_flat_mse: the answer is still flat. Train longer, or change the rate"]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Crop, visible blocks, answer (with the true mean and deviation of each block), answer in the hidden blocks."""
        image, visible = views["image"], expand_blocks(views["visible"], self.block)
        answer = self.reconstruct(image, views["visible"]).float()
        if self.config.target == "block":
            answer = restore_blocks(answer, *self._statistics(views))
        return before_and_after(image, visible, answer)

    def _statistics(self, views: Views) -> tuple[torch.Tensor, torch.Tensor]:
        return block_statistics(views["image"], views["inside"], self.block, self.config.std_floor)


def _check_stop(encoder: Any, stop: int) -> None:
    """Refuse a scale that there is not, and the deepest: without a convolution nothing reaches the hidden positions."""
    last = len(encoder.output_channels) - 2
    if stop > last:
        raise NnsslError(
            f"light_stop={stop}: the decoder can end at the scales 0 to {last}, 0 being the full resolution"
        )
