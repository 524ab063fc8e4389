"""Volume fusion: segment how much of which crop is seen where (Wang et al. 2023, MIS-FM, arXiv 2306.16925).

Two crops are blended with a coefficient from {0, 1/K, ..., 1} that changes from box to box, and the network says per voxel
which one it was: a segmentation task with K + 1 classes, with nnU-Net's loss and decoder, but without labels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses import dice_ce
from nnssl.methods.augmentation import AugmentationConfig, augmented
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.networks import ReconstructionUNet
from nnssl.views import Geometry, fuse, fusion_partner, random_coefficients


class VolumeFusionConfig(AugmentationConfig):
    """Options of `-m volume_fusion`."""

    levels: int = Field(4, ge=1, le=20, description="K: the coefficients are 0, 1/K, ..., 1, one class each")
    boxes: tuple[int, int] = Field((10, 40), description="fewest and most boxes per crop")
    dice_weight: float = Field(1.0, ge=0, description="weight of the Dice loss; the cross-entropy has weight 1")


class VolumeFusion(Method):
    """Prediction of fusion coefficients with the plans' whole U-Net."""

    name: ClassVar[str] = "volume_fusion"
    Config: ClassVar[type[MethodConfig]] = VolumeFusionConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=3e-5)
    citation: ClassVar[str] = (
        "Wang et al. 2023, MIS-FM: 3D medical image segmentation using foundation models pretrained on a large-scale "
        "unannotated dataset, arXiv 2306.16925"
    )
    config: VolumeFusionConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        fewest, most = self.config.boxes
        if not 1 <= fewest <= most <= 200:
            raise NnsslError(f"boxes={[fewest, most]}: give the fewest and the most boxes per crop, both from 1 to 200")
        self.network = ReconstructionUNet(unet, self.config.levels + 1)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`foreground`, `background`, `fused` (B, C, ...); `classes` (B, 1, ...) int64, the coefficient times K;
        `inside` (B, 1, ...) bool, part of both images."""
        c = self.config
        x, inside = augmented(self, c, crops, generator)
        background, background_inside = fusion_partner(x, inside)
        classes = random_coefficients(
            self.geometry, x.shape[0], generator, levels=c.levels, count=c.boxes, device=x.device
        )
        return {
            "foreground": x,
            "background": background,
            "fused": fuse(x, background, classes, c.levels),
            "classes": classes,
            "inside": inside & background_inside,
        }

    def forward(self, views: Views) -> Losses:
        """Batch Dice and cross-entropy of the coefficient's class, on voxels where both crops are image."""
        classes, inside = views["classes"], views["inside"]
        logits = self.network(views["fused"])
        dice_loss, cross_entropy = dice_ce(logits, classes[:, 0], inside, self.ranks)
        right = (logits.detach().argmax(1, keepdim=True) == classes) & inside
        accuracy = self.ranks.mean(right.sum().float(), inside.sum().float())
        terms = {
            "dice": 1.0 - dice_loss.detach(),
            "cross_entropy": cross_entropy.detach(),
            "accuracy": accuracy,
        }
        return Losses(cross_entropy + self.config.dice_weight * dice_loss, terms)

    def exported(self) -> Exported:
        """Encoder and nnU-Net decoder of the plans; the 1x1 head is thrown away."""
        unet = self.network.unet
        return Exported(unet.encoder, unet.decoder)  # type: ignore[arg-type]

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Says so when crops have no other crop to be fused with."""
        if batch_size < 2 * self.ranks.world:
            return [
                "with one crop per process volume_fusion blends a crop with its own mirror image, which is an easier task: "
                "use --batch-size 2 or more per process"
            ]
        return []

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Both crops, their fusion, the coefficient and the answer; padding of either crop is left out of the last two.

        Coefficients are shown in the foreground's greys: 0 is two standard deviations below its mean, 1 two above.
        """
        foreground, inside = views["foreground"], views["inside"]
        answer = self.network(views["fused"]).argmax(1, keepdim=True)
        axes = tuple(range(1, foreground.ndim))
        mean, sd = foreground.mean(axes, keepdim=True), foreground.std(axes, keepdim=True)

        def grey(classes: torch.Tensor) -> torch.Tensor:
            shade = mean + (2 * classes / self.config.levels - 1) * 2 * sd
            return torch.where(inside, shade, torch.nan).expand_as(foreground)

        return {
            "foreground": foreground,
            "background": views["background"],
            "shown to the network": views["fused"],
            "coefficient": grey(views["classes"]),
            "network output": grey(answer),
        }
