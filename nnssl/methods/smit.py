"""SMIT: predict hidden voxels, and at once what the moving average says of hidden positions and of the whole view.

Jiang et al. 2022, Self-supervised 3D anatomy segmentation using self-distilled masked image transformer (MICCAI, arXiv
2205.10342): masked image prediction (MIP), masked patch token distillation (MPD), image token distillation (ITD).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses import masked_l1
from nnssl.losses.distillation import entropy, view_distillation
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from nnssl.networks import ReconstructionUNet, VoxelHead, decoder_features
from nnssl.views import Geometry, expand_blocks


class SMITConfig(MaskedDistillationConfig):
    """Options of `-m smit`."""

    mask_ratio: float = Field(0.7, gt=0, lt=1, description="share of blocks to hide from the student")
    shared_head: bool = Field(False, description="one head and one set of prototypes for whole crops and for positions")
    bottleneck: int = Field(64, ge=2, description="width of the embedding that is compared with the prototypes")
    image_weight: float = Field(1.0, ge=0, description="weight of the prediction of hidden voxels (MIP)")
    patch_weight: float = Field(0.1, ge=0, description="weight of the loss at hidden positions (MPD)")
    global_weight: float = Field(0.1, ge=0, description="weight of the loss between whole views (ITD)")
    reconstruct: Literal["unet", "linear"] = Field(
        "unet",
        description="hidden voxels from nnU-Net's decoder, which is then exported too, or from one 1x1 convolution",
    )
    p_intensity: float = Field(0.0, ge=0, le=1, description="probability of each change of brightness, contrast, gamma")
    p_noise: float = Field(0.0, ge=0, le=1, description="probability of Gaussian noise, per view")
    p_blur: float = Field(0.0, ge=0, le=1, description="probability of Gaussian blur, per view")
    export: Literal["teacher", "student"] = Field(
        "student", description="whose encoder is the result; the decoder belongs to the student's and goes with it only"
    )


class SMIT(MaskedDistillation):
    """Masked image prediction with two kinds of self-distillation."""

    name: ClassVar[str] = "smit"
    Config: ClassVar[type[MethodConfig]] = SMITConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=5e-4, weight_decay=0.01, warmup=0.05, clip=3.0)
    citation: ClassVar[str] = (
        "Jiang et al. 2022, Self-supervised 3D anatomy segmentation using self-distilled masked image transformer (SMIT), "
        "MICCAI"
    )
    config: SMITConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        whole = self.config.reconstruct == "unet"
        self.voxels = ReconstructionUNet(unet, channels) if whole else VoxelHead(self.backbone.encoder, channels)

    def forward(self, views: Views) -> Losses:
        """Weighted sum of MIP (L1 on hidden voxels of the image), MPD and ITD."""
        c = self.config
        images = [views["view_1"], views["view_2"]]
        teacher, targets = self.teach(images)
        skips = self._skips(torch.cat(self.shown(views)))
        student = skips[-1].chunk(2)
        scores = self.scores(student)
        where = torch.cat([views[f"inside_{k}"] & ~expand_blocks(views[f"visible_{k}"], self.block) for k in (1, 2)])
        mip = masked_l1(self._voxels(skips), torch.cat(images), where, self.ranks)
        mpd = self.patch_loss(views, student, teacher)
        itd = view_distillation(scores, targets, c.student_temperature)
        terms = {
            "mip": mip.detach(),
            "mpd": mpd.detach(),
            "itd": itd.detach(),
            "teacher_entropy": entropy(targets).mean(),
        }
        return Losses(c.image_weight * mip + c.patch_weight * mpd + c.global_weight * itd, terms)

    def exported(self) -> Exported:
        """The student's encoder, with the decoder if it was trained; or the teacher's encoder alone."""
        if self.config.export == "teacher" or not isinstance(self.voxels, ReconstructionUNet):
            return super().exported()
        return Exported(self.backbone.encoder, self.voxels.unet.decoder)  # type: ignore[arg-type]

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Each view, what the student saw of it, and for the first one what it predicts."""
        pictures = super().preview(views)
        answer = self._voxels(self._skips(self.shown(views)[0])).float()
        seen = expand_blocks(views["visible_1"], self.block)
        first = {"network output": answer, "hidden blocks filled in": torch.where(seen, views["view_1"], answer)}
        names = ("view 1", "view 1, student")
        return {**{k: pictures.pop(k) for k in names}, **first, **pictures}

    def _skips(self, shown: torch.Tensor) -> Any:
        """The student's features of every scale, highest resolution first."""
        encoder: Any = self.backbone.encoder
        return encoder(shown)

    def _voxels(self, skips: Any) -> torch.Tensor:
        """The predicted image, (B, C, *spatial)."""
        if isinstance(self.voxels, ReconstructionUNet):
            unet: Any = self.voxels.unet
            return self.voxels.head(decoder_features(unet.decoder, skips))
        return self.voxels(skips[-1])
