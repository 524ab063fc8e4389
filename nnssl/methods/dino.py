"""DINO: the student assigns small and large views as its moving average assigns large ones (Caron et al. 2021, ICCV)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator

from nnssl.losses.distillation import entropy, view_distillation
from nnssl.methods.base import CropBatch, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.self_distillation import SelfDistillation, SelfDistillationConfig, encode_by_size


class DINOConfig(SelfDistillationConfig):
    """Options of `-m dino`."""

    n_local: int = Field(4, ge=0, le=16, description="small views per crop, which only the student sees")
    local_edge: float = Field(0.5, gt=0, le=1, description="edge of a small view relative to the patch")
    local_share: tuple[float, float] = Field(
        (0.05, 0.3), description="range of a small view's volume (2D: area) relative to the crop it is cut from"
    )

    @model_validator(mode="after")
    def _local_ordered(self) -> DINOConfig:
        low, high = self.local_share
        if not 0 < low <= high <= 1:
            raise ValueError("local_share needs two numbers, 0 < smallest <= largest <= 1")
        return self


class DINO(SelfDistillation):
    """Self-distillation with multi-crop."""

    name: ClassVar[str] = "dino"
    Config: ClassVar[type[MethodConfig]] = DINOConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=5e-4, weight_decay=0.04, warmup=0.1, clip=3.0)
    citation: ClassVar[str] = "Caron et al. 2021, Emerging properties in self-supervised vision transformers, ICCV"
    config: DINOConfig

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`view_1`, `view_2` (B, C, *patch), `case` (B,), and small views `local_1` ... (B, C, *small)."""
        c = self.config
        views = super().views(crops, generator)
        return {**views, **self.local_views(crops, generator, c.n_local, c.local_edge, c.local_share)}

    def forward(self, views: Views) -> Losses:
        """Cross-entropy of teacher and student over all pairs of different views of a crop."""
        large = [views["view_1"], views["view_2"]]
        small = [views[f"local_{k + 1}"] for k in range(self.config.n_local)]
        _, targets = self.teach(large)
        scores = self.scores(encode_by_size(self.backbone.feature_map, large + small))
        loss = view_distillation(scores, targets, self.config.student_temperature)
        return Losses(loss, {"teacher_entropy": entropy(targets).mean()})
