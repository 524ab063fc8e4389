"""Barlow Twins: the cross-correlation of two views becomes the identity (Zbontar et al. 2021, ICML)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.barlow_twins import barlow_twins
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.views import Geometry

FEW = 8
"""Crops per step below which the correlations say little."""


class BarlowTwinsConfig(JointEmbeddingConfig):
    """Options of `-m barlow_twins`."""

    redundancy: float = Field(0.0051, ge=0, description="weight of the correlations between dimensions (lambda)")
    statistics: Literal["both", "view"] = Field(
        "both", description="mean and standard deviation of a dimension over the rows of both views, or of each view"
    )
    hidden: int = Field(512, ge=1, description="width of the projector's hidden layers")
    out: int = Field(128, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the projector")


class BarlowTwins(JointEmbedding):
    """Projector of three layers; correlation over the crops of all processes."""

    name: ClassVar[str] = "barlow_twins"
    Config: ClassVar[type[MethodConfig]] = BarlowTwinsConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1.5e-6)
    citation: ClassVar[str] = (
        "Zbontar et al. 2021, Barlow Twins: Self-supervised learning via redundancy reduction, ICML"
    )
    config: BarlowTwinsConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, layers=3, norm=c.head_norm, last_bias=False)

    def forward(self, views: Views) -> Losses:
        """Squared distance of the cross-correlation from the identity, divided by the width of the embedding."""
        h = [self.ranks.gather(self.backbone(views[v])) for v in ("view_1", "view_2")]
        z1, z2 = self.projector(torch.cat(h)).chunk(2)
        self._watch(z1, z2)
        c = self.config
        loss, parts = barlow_twins(z1, z2, c.redundancy, joint=c.statistics == "both")
        return Losses(loss / c.out, parts)

    def exported(self) -> Exported:
        """The encoder; the projector is thrown away."""
        return Exported(self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """The correlation is measured over the batch."""
        c, found = self.config, []
        if batch_size == 1 or (batch_size == 2 and c.statistics == "view"):
            found.append(
                f"batch size {batch_size} leaves nothing to learn from with statistics={c.statistics}: raise --batch-size"
                + (", or use statistics=both" if batch_size == 2 else "")
            )
        elif batch_size < FEW:
            found.append(
                f"batch size {batch_size}: the correlation of {c.out} dimensions is measured on {batch_size} crops, so most "
                "of it is chance; raise --batch-size, or use vicreg, which learned more from few crops where we tried"
            )
        return found
