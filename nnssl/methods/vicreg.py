"""VICReg: views agree, every dimension varies over the batch, no two say the same (Bardes et al. 2022, ICLR)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.vicreg import vicreg
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.views import Geometry

FEW = 4
"""Crops per step up to which the covariance says little."""


class VICRegConfig(JointEmbeddingConfig):
    """Options of `-m vicreg`."""

    invariance: float = Field(25.0, ge=0, description="weight of the difference between both views (lambda)")
    variance: float = Field(25.0, ge=0, description="weight of the hinge on each dimension's standard deviation (mu)")
    covariance: float = Field(1.0, ge=0, description="weight of the covariances between dimensions (nu)")
    hidden: int = Field(512, ge=1, description="width of the expander's hidden layers")
    out: int = Field(512, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the expander")


class VICReg(JointEmbedding):
    """Expander of three layers; statistics over the crops of all processes."""

    name: ClassVar[str] = "vicreg"
    Config: ClassVar[type[MethodConfig]] = VICRegConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-6)
    citation: ClassVar[str] = (
        "Bardes et al. 2022, VICReg: Variance-invariance-covariance regularization for self-supervised learning, ICLR"
    )
    config: VICRegConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.expander = MLPHead(self.backbone.width, c.hidden, c.out, layers=3, norm=c.head_norm, last_bias=False)

    def forward(self, views: Views) -> Losses:
        """Weighted sum of invariance, variance and covariance; the parts are logged without their weights."""
        c = self.config
        h = [self.ranks.gather(self.backbone(views[v])) for v in ("view_1", "view_2")]
        z1, z2 = self.expander(torch.cat(h)).chunk(2)
        self._watch(z1, z2)
        loss, parts = vicreg(z1, z2, c.invariance, c.variance, c.covariance)
        return Losses(loss, parts)

    def exported(self) -> Exported:
        """The encoder; the expander is thrown away."""
        return Exported(self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Variance and covariance are measured over the batch."""
        if batch_size == 1:
            return ["batch size 1: variance and covariance need several crops; use --batch-size 4 or more"]
        if batch_size <= FEW:
            return [
                f"batch size {batch_size}: the covariance of {self.config.out} dimensions is measured on {batch_size} "
                "crops, so most of what it punishes is chance; raise --batch-size if memory allows"
            ]
        return []
