"""SwAV: the prototypes of one view are predicted from the other views (Caron et al. 2020, NeurIPS, arXiv 2006.09882)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from nnssl.losses.distillation import entropy, view_distillation
from nnssl.losses.sinkhorn import sinkhorn
from nnssl.methods.base import CropBatch, Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, MultiCropConfig
from nnssl.methods.self_distillation import FEW_USED, SAME_FOR_ALL, Usage, assignment_sums
from nnssl.networks.heads import HeadNorm, MLPHead, Prototypes
from nnssl.views import Geometry


class SwAVConfig(MultiCropConfig):
    """Options of `-m swav`."""

    prototypes: int = Field(64, ge=2, description="number of prototypes; more need a larger batch, queue and pool")
    temperature: float = Field(0.1, gt=0, description="of the prediction")
    epsilon: float = Field(0.02, gt=0, description="softness of the codes; lower it if the loss stays at log K")
    iterations: int = Field(3, ge=1, description="Sinkhorn iterations")
    n_local: int = Field(4, ge=0, le=16, description="small views per crop, which are only predicted from")
    local_edge: float = Field(0.43, gt=0, le=1, description="edge of a small view relative to the patch")
    queue: int = Field(128, ge=0, description="earlier embeddings that help to divide the prototypes evenly; 0: none")
    queue_start: float = Field(0.1, ge=0, le=1, description="share of the run after which the queue is used")
    freeze: float = Field(0.1, ge=0, lt=1, description="share of the run in which the prototypes do not move")
    hidden: int = Field(512, ge=1, description="width of the projector's hidden layer")
    out: int = Field(128, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the projector, also at its end")


class SwAV(JointEmbedding):
    """Codes of the two large views from Sinkhorn-Knopp over all processes' crops and a queue; multi-crop."""

    name: ClassVar[str] = "swav"
    Config: ClassVar[type[MethodConfig]] = SwAVConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-6)
    citation: ClassVar[str] = (
        "Caron et al. 2020, Unsupervised learning of visual features by contrasting cluster assignments, NeurIPS"
    )
    config: SwAVConfig
    queue: torch.Tensor
    queue_filled: torch.Tensor
    queue_next: torch.Tensor
    queue_used: torch.Tensor
    frozen: torch.Tensor

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        # An encoder of instance norms starts with embeddings that all point the same way. Scores then hardly differ, codes
        # become uniform and stay so; the last norm spreads the embeddings over the sphere.
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, norm=c.head_norm, last_norm=True)
        self.prototypes = Prototypes(c.out, c.prototypes)
        self.register_buffer("queue", torch.zeros(c.queue, c.out))
        self.register_buffer("queue_filled", torch.zeros(c.queue))  # 1: holds an embedding
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.long))  # where the next one goes
        self.register_buffer("queue_used", torch.tensor(float(c.queue_start == 0)))
        self.register_buffer("frozen", torch.tensor(float(c.freeze > 0)))
        self._fresh: torch.Tensor | None = None  # this step's embeddings, for `after_step`
        self._usage = Usage(c.prototypes)

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`view_1`, `view_2` (B, C, *patch), `case` (B,), and small views `local_1` ... (B, C, *small)."""
        return {**super().views(crops, generator), **self._local_views(crops, generator, self.config)}

    def forward(self, views: Views) -> Losses:
        """Cross-entropy of each large view's code and the prediction from every other view."""
        c = self.config
        large = self.backbone(torch.cat([views["view_1"], views["view_2"]])).chunk(2)
        small = [views[f"local_{k + 1}"] for k in range(c.n_local)]
        small = list(self.backbone(torch.cat(small)).chunk(c.n_local)) if small else []
        h = self.ranks.gather(torch.stack([*large, *small], dim=1))  # (B, views, width)
        z = self.projector(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        scores = self.prototypes(z, self.frozen)  # (B, views, K)
        codes = torch.stack([self._codes(scores[:, v]) for v in (0, 1)], dim=1)
        self._watch(z[:, 0], z[:, 1])
        if self.training:
            self._fresh = F.normalize(z[:, :2].detach().float(), dim=-1).flatten(0, 1)
        else:
            predicted = (scores[:, :2].detach() / c.temperature).softmax(-1)
            self._usage.add(assignment_sums(predicted, torch.ones_like(predicted[..., 0])))
        loss = view_distillation(scores, codes, c.temperature)
        return Losses(loss, {"code_entropy": entropy(codes).mean() / math.log(c.prototypes)})

    @torch.no_grad()
    def _codes(self, scores: torch.Tensor) -> torch.Tensor:
        """Codes (B, K) of one view's scores (B, K), divided evenly together with the queue's."""
        c = self.config
        weight = torch.cat([torch.ones_like(scores[:, 0]), self.queue_filled * self.queue_used])
        everybody = torch.cat([scores, self.prototypes(self.queue)])
        return sinkhorn(everybody, c.epsilon, c.iterations, weight)[: len(scores)]

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The step's embeddings take the places of the oldest ones; prototypes thaw and the queue joins in due time."""
        c = self.config
        self.frozen.fill_(float(progress < c.freeze))
        self.queue_used.fill_(float(progress >= c.queue_start))
        if self._fresh is None or c.queue == 0:
            return
        fresh = self._fresh[-c.queue :]
        place = (self.queue_next + torch.arange(len(fresh), device=fresh.device)) % c.queue
        self.queue[place] = fresh
        self.queue_filled[place] = 1.0
        self.queue_next.add_(len(fresh)).remainder_(c.queue)
        self._fresh = None

    def exported(self) -> Exported:
        """The encoder; projector and prototypes are thrown away."""
        return Exported(self.backbone.encoder)

    def diagnostics(self) -> dict[str, float]:
        """Collapse metrics, and how the large views' predictions spread over the prototypes."""
        return {**super().diagnostics(), **self._usage.metrics()}

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """An even division among K prototypes takes K embeddings or more, and crops that differ."""
        c, found = self.config, []
        if c.prototypes > batch_size + c.queue:
            found.append(
                f"prototypes={c.prototypes} cannot be divided evenly among the {batch_size + c.queue} embeddings of batch "
                f"and queue: --set queue={4 * c.prototypes}, or fewer prototypes"
            )
        if c.queue > 4 * cases:
            found.append(
                f"queue={c.queue} holds {c.queue / cases:.1f} embeddings of each of the {cases} cases, and the even "
                f"division keeps them apart: --set queue={max(1, 2 * cases)} is about one crop per case"
            )
        return found

    def health(self, row: Mapping[str, float]) -> list[str]:
        """What collapse looks like here: one prototype for all crops, or the same mixture for every crop."""
        found = super().health(row)
        used, single = row.get("usage_entropy", 1.0), row.get("assignment_entropy", 0.0)
        if used < FEW_USED:
            found.append(
                f"all crops are predicted to belong to one prototype (usage_entropy {used:.3f} of at most 1): collapse; try "
                "a lower --lr, a larger epsilon, or --set queue=0"
            )
        elif used - single < SAME_FOR_ALL:
            found.append(
                f"all crops get the same prediction (usage_entropy {used:.3f}, assignment_entropy {single:.3f}): it tells "
                "nothing apart; try a smaller epsilon, or wait if the run has just begun"
            )
        return found
