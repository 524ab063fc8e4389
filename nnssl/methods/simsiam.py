"""SimSiam: predict one view's embedding from the other's, without gradient to it (Chen and He 2021, arXiv 2011.10566)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.cosine import negative_cosine
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.byol import needs_batch_norm
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.views import Geometry


class SimSiamConfig(JointEmbeddingConfig):
    """Options of `-m simsiam`."""

    hidden: int = Field(1024, ge=1, description="width of the projector's hidden layers")
    out: int = Field(1024, ge=2, description="width of the embedding")
    bottleneck: int = Field(256, ge=1, description="width of the predictor's hidden layer")
    head_norm: HeadNorm = Field("batch", description="norm in projector and predictor; others than batch collapse")


class SimSiam(JointEmbedding):
    """Projector of three layers, predictor with a bottleneck, stop-gradient, symmetric loss."""

    name: ClassVar[str] = "simsiam"
    Config: ClassVar[type[MethodConfig]] = SimSiamConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = "Chen and He 2021, Exploring simple Siamese representation learning, CVPR"
    config: SimSiamConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, layers=3, norm=c.head_norm, last_norm=True)
        self.predictor = MLPHead(c.out, c.bottleneck, c.out, norm=c.head_norm)

    def forward(self, views: Views) -> Losses:
        """Negative cosine of each view's prediction and the other's embedding, between 0 (agreement) and 2."""
        # both views through the heads at once, as in byol: their batch norm needs rows
        z = self.projector(torch.cat([self.ranks.gather(self.backbone(views[v])) for v in ("view_1", "view_2")]))
        p1, p2 = self.predictor(z).chunk(2)
        z1, z2 = z.chunk(2)
        self._watch(z1, z2)
        return Losses(1 + (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2)

    def exported(self) -> Exported:
        """The encoder; projector and predictor are thrown away."""
        return Exported(self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Without negatives, only the batch norm tells crops apart."""
        return needs_batch_norm(self.config.head_norm, batch_size)
