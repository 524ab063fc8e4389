"""BYOL: predict what a slowly moving teacher makes of another view; no negatives (Grill et al. 2020, arXiv 2006.07733)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.cosine import negative_cosine
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.networks.momentum import MomentumCopy, cosine_momentum
from nnssl.views import Geometry


class BYOLConfig(JointEmbeddingConfig):
    """Options of `-m byol`."""

    momentum_start: float = Field(0.99, ge=0, lt=1, description="teacher's momentum at the start; it rises to 1")
    hidden: int = Field(2048, ge=1, description="width of the hidden layers of projector and predictor")
    out: int = Field(256, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in projector and predictor; others than batch collapse")
    export: Literal["teacher", "student"] = Field("teacher", description="whose encoder is the result")


class BYOL(JointEmbedding):
    """Student with a predictor, momentum teacher without, symmetric loss."""

    name: ClassVar[str] = "byol"
    Config: ClassVar[type[MethodConfig]] = BYOLConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-5)
    citation: ClassVar[str] = (
        "Grill et al. 2020, Bootstrap your own latent, NeurIPS; "
        "Kalapos and Gyires-Tóth 2022, Self-supervised pretraining for 2D medical image segmentation, ECCV workshops"
    )
    config: BYOLConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, norm=c.head_norm)
        self.predictor = MLPHead(c.out, c.hidden, c.out, norm=c.head_norm)
        self.teacher_backbone = MomentumCopy(self.backbone)
        self.teacher_projector = MomentumCopy(self.projector)

    def forward(self, views: Views) -> Losses:
        """Negative cosine of prediction and teacher's embedding, both ways, between 0 (agreement) and 4."""
        # Rows of both views go through the heads at once: with two crops per batch, which is common in 3D, the statistics
        # of one view's two rows would turn every value into 1 or -1.
        names, gather = ("view_1", "view_2"), self.ranks.gather
        z = self.projector(torch.cat([gather(self.backbone(views[v])) for v in names]))
        self._watch(*z.chunk(2))
        p1, p2 = self.predictor(z).chunk(2)
        t1, t2 = self.teacher_projector(torch.cat([gather(self.teacher_backbone(views[v])) for v in names])).chunk(2)
        return Losses(2 + negative_cosine(p1, t2) + negative_cosine(p2, t1))

    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        momentum = cosine_momentum(self.config.momentum_start, progress)
        self.teacher_backbone.update(self.backbone, momentum)
        self.teacher_projector.update(self.projector, momentum)

    def exported(self) -> Exported:
        """The teacher's encoder, as in Kalapos and Gyires-Tóth 2022, unless the student's is asked for."""
        teacher: nn.Module = self.teacher_backbone.module.encoder  # type: ignore[assignment]
        return Exported(teacher if self.config.export == "teacher" else self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Without negatives, only the batch norm tells crops apart."""
        return needs_batch_norm(self.config.head_norm, batch_size)


def needs_batch_norm(head_norm: HeadNorm, batch_size: int) -> list[str]:
    """Warnings for methods (byol, simsiam) whose loss a constant embedding would satisfy."""
    if head_norm != "batch":
        return [
            f"head_norm={head_norm}: nothing then keeps all embeddings from becoming one point, which happened within 150 "
            "steps where we tried; head_norm=batch, the default, prevents it. Watch embedding_std"
        ]
    if batch_size == 1:
        return ["batch size 1: the heads' batch norm needs other crops to compare with; use --batch-size 2 or more"]
    return []
