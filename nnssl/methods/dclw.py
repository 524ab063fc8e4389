"""DCLW: contrast without the coupling that weakens small batches (Yeh et al. 2022, ECCV, arXiv 2110.06848).

As SimCLR, but the positive is not in the denominator, and positives that are far apart count more.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.dclw import dclw
from nnssl.losses.nt_xent import negatives
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig, few_negatives
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.views import Geometry


class DCLWConfig(JointEmbeddingConfig):
    """Options of `-m dclw`."""

    temperature: float = Field(0.1, gt=0, description="of the contrast; lower looks harder at the closest negatives")
    sigma: float = Field(0.5, gt=0, description="of the positives' weights; lower makes them differ more")
    hidden: int = Field(512, ge=1, description="width of the projector's hidden layer")
    out: int = Field(128, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the projector")
    same_case_negatives: bool = Field(False, description="whether two crops of one case are negatives of each other")


class DCLW(JointEmbedding):
    """Decoupled contrast within the batch, over all processes."""

    name: ClassVar[str] = "dclw"
    Config: ClassVar[type[MethodConfig]] = DCLWConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = (
        "Yeh et al. 2022, Decoupled contrastive learning, ECCV; "
        "Chen et al. 2020, A simple framework for contrastive learning of visual representations, ICML"
    )
    config: DCLWConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, norm=c.head_norm)

    def forward(self, views: Views) -> Losses:
        """Weighted decoupled contrastive loss over the crops of all processes; it may be negative."""
        c, gather = self.config, self.ranks.gather
        # both views at once: a batch norm then sees twice as many rows, and no difference between views
        h = torch.cat([gather(self.backbone(views[v])) for v in ("view_1", "view_2")])
        z1, z2 = self.projector(h).chunk(2)
        self._watch(z1, z2)
        case = gather(views["case"])
        allowed = negatives(case, case, c.same_case_negatives)
        loss, accuracy = dclw(z1, z2, c.temperature, c.sigma, allowed)
        return Losses(loss, {"contrast_accuracy": accuracy})

    def exported(self) -> Exported:
        """The encoder; the projector is thrown away."""
        return Exported(self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Contrast needs negatives, though this one copes with few."""
        return few_negatives(batch_size, needed=4)
