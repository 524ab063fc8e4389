"""DINO: the student assigns small and large views as its moving average assigns large ones (Caron et al. 2021, ICCV)."""

from __future__ import annotations

from typing import ClassVar

import torch

from nnssl.losses.distillation import entropy, view_distillation
from nnssl.methods.base import CropBatch, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import MultiCropConfig
from nnssl.methods.self_distillation import SelfDistillation, SelfDistillationConfig, encode_by_size


class DINOConfig(MultiCropConfig, SelfDistillationConfig):
    """Options of `-m dino`."""


class DINO(SelfDistillation):
    """Self-distillation with multi-crop."""

    name: ClassVar[str] = "dino"
    Config: ClassVar[type[MethodConfig]] = DINOConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=5e-4, weight_decay=0.04, warmup=0.1, clip=3.0)
    citation: ClassVar[str] = "Caron et al. 2021, Emerging properties in self-supervised vision transformers, ICCV"
    config: DINOConfig

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`view_1`, `view_2` (B, C, *patch), `case` (B,), and small views `local_1` ... (B, C, *small)."""
        return {**super().views(crops, generator), **self._local_views(crops, generator, self.config)}

    def forward(self, views: Views) -> Losses:
        """Cross-entropy of teacher and student over all pairs of different views of a crop."""
        large = [views["view_1"], views["view_2"]]
        small = [views[f"local_{k + 1}"] for k in range(self.config.n_local)]
        _, targets = self.teach(large)
        scores = self.scores(encode_by_size(self.backbone.feature_map, large + small))
        loss = view_distillation(scores, targets, self.config.student_temperature)
        return Losses(loss, {"teacher_entropy": entropy(targets).mean()})
