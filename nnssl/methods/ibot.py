"""iBOT: DINO, and beside it the teacher's assignment of every hidden position is predicted (Zhou et al. 2022, ICLR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from nnssl.losses.distillation import entropy, view_distillation
from nnssl.methods.base import CropBatch, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.dino import DINOConfig
from nnssl.methods.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from nnssl.methods.self_distillation import encode_by_size


class IBOTConfig(MaskedDistillationConfig, DINOConfig):
    """Options of `-m ibot`."""

    n_local: int = Field(2, ge=0, le=16, description="small views per crop, which only the student sees")


class IBOT(MaskedDistillation):
    """Self-distillation of whole views and of hidden positions."""

    name: ClassVar[str] = "ibot"
    Config: ClassVar[type[MethodConfig]] = IBOTConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=5e-4, weight_decay=0.04, warmup=0.1, clip=3.0)
    citation: ClassVar[str] = "Zhou et al. 2022, iBOT: image BERT pre-training with online tokenizer, ICLR"
    config: IBOTConfig

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """The two views with image and visibility masks, and small views `local_1` ... (B, C, *small)."""
        return {**super().views(crops, generator), **self._local_views(crops, generator, self.config)}

    def forward(self, views: Views) -> Losses:
        """Between whole views, the student seeing only a part; and at the hidden positions of each view."""
        c = self.config
        small = [views[f"local_{k + 1}"] for k in range(c.n_local)]
        teacher, targets = self.teach([views["view_1"], views["view_2"]])
        student = encode_by_size(self.backbone.feature_map, self.shown(views) + small)
        scores = self.scores(student)
        whole = view_distillation(scores, targets, c.student_temperature)
        patch = self.patch_loss(views, student[:2], teacher)
        terms = {"global": whole.detach(), "patch": patch.detach(), "teacher_entropy": entropy(targets).mean()}
        return Losses(c.global_weight * whole + c.patch_weight * patch, terms)
