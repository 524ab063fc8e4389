"""MoCo: contrast with a queue of earlier crops' keys (He et al. 2020, CVPR, arXiv 1911.05722; v2: arXiv 2003.04297).

Keys come from a momentum copy of the encoder, which changes slowly, so that keys of many steps can be compared. The
number of negatives then does not depend on the batch size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.losses.info_nce import info_nce
from nnssl.losses.nt_xent import negatives
from nnssl.methods.base import Exported, Losses, MethodConfig, Optimisation, Views
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks.heads import HeadNorm, MLPHead
from nnssl.networks.momentum import MomentumCopy
from nnssl.views import Geometry

TEMPERATURES = {"mlp": 0.2, "linear": 0.07}


class MoCoConfig(JointEmbeddingConfig):
    """Options of `-m moco`."""

    head: Literal["mlp", "linear"] = Field("mlp", description="projector: mlp (MoCo v2) or linear (v1)")
    temperature: float | None = Field(None, gt=0, description="of the contrast; default 0.2 for mlp, 0.07 for linear")
    queue: int = Field(512, ge=1, description="earlier keys that serve as negatives; no more than cases in the pool")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the key encoder")
    symmetric: bool = Field(True, description="use either view as query and as key; otherwise the second only as key")
    hidden: int = Field(512, ge=1, description="width of the projector's hidden layer (head=mlp)")
    out: int = Field(128, ge=2, description="width of the embedding")
    head_norm: HeadNorm = Field("batch", description="norm in the projector (head=mlp)")
    same_case_negatives: bool = Field(False, description="whether two crops of one case are negatives of each other")


class MoCo(JointEmbedding):
    """Queries from the encoder, keys from its momentum copy, negatives from the queue."""

    name: ClassVar[str] = "moco"
    Config: ClassVar[type[MethodConfig]] = MoCoConfig
    optimisation: ClassVar[Optimisation] = Optimisation(lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = (
        "He et al. 2020, Momentum contrast for unsupervised visual representation learning, CVPR; "
        "Chen et al. 2020, Improved baselines with momentum contrastive learning, arXiv 2003.04297"
    )
    config: MoCoConfig
    queue: torch.Tensor
    queue_case: torch.Tensor
    queue_next: torch.Tensor

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        layers = 2 if c.head == "mlp" else 1
        self.projector = MLPHead(self.backbone.width, c.hidden, c.out, layers=layers, norm=c.head_norm)
        self.temperature = TEMPERATURES[c.head] if c.temperature is None else c.temperature
        self.key_backbone = MomentumCopy(self.backbone)
        self.key_projector = MomentumCopy(self.projector)
        self.register_buffer("queue", torch.zeros(c.queue, c.out))  # unit vectors
        self.register_buffer("queue_case", torch.full((c.queue,), -1))  # -1: still empty
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.long))  # where the next key goes
        self._fresh: tuple[torch.Tensor, torch.Tensor] | None = None  # keys of this step, for `after_step`

    def forward(self, views: Views) -> Losses:
        """InfoNCE of each query with its key; with `symmetric`, the mean of both directions."""
        c, gather = self.config, self.ranks.gather
        case = gather(views["case"])
        asked, answered = (("view_1", "view_2"), ("view_2", "view_1")) if c.symmetric else (("view_1",), ("view_2",))
        if self.training and c.head == "mlp" and c.head_norm == "batch" and len(case) * len(asked) < 2:
            raise NnsslError("head_norm=batch needs two rows: use --batch-size 2, symmetric=true or head_norm=layer")
        # all rows at once: a batch norm then sees as many as there are
        queries = self.projector(torch.cat([gather(self.backbone(views[v])) for v in asked])).chunk(len(asked))
        keys = self.key_projector(torch.cat([gather(self.key_backbone(views[v])) for v in answered])).chunk(len(asked))
        self._watch(queries[0], keys[0])
        # The queue starts empty, so keys of the same step's other crops are negatives too. In validation the queue's cases
        # are numbers of the training pool: the few pairs that this rules out by mistake do no harm.
        queued = negatives(case, self.queue_case, c.same_case_negatives) & (self.queue_case >= 0)
        others = negatives(case, case, c.same_case_negatives) & ~torch.eye(
            len(case), dtype=torch.bool, device=case.device
        )
        allowed = torch.cat([queued, others], dim=1)
        scores = [info_nce(q, k, torch.cat([self.queue, k]), self.temperature, allowed) for q, k in zip(queries, keys)]
        if self.training:
            self._fresh = (F.normalize(torch.cat(keys).float(), dim=1), case.repeat(len(keys)))
        loss, accuracy = (torch.stack(parts).mean() for parts in zip(*scores))
        return Losses(loss, {"contrast_accuracy": accuracy})

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The key encoder follows, and the step's keys take the places of the oldest ones."""
        self.key_backbone.update(self.backbone, self.config.momentum)
        self.key_projector.update(self.projector, self.config.momentum)
        if self._fresh is None:
            return
        keys, case = (x[-self.config.queue :] for x in self._fresh)
        place = (self.queue_next + torch.arange(len(keys), device=keys.device)) % self.config.queue
        self.queue[place] = keys
        self.queue_case[place] = case
        self.queue_next.add_(len(keys)).remainder_(self.config.queue)
        self._fresh = None

    def exported(self) -> Exported:
        """The encoder of the queries; projector and momentum copy are thrown away."""
        return Exported(self.backbone.encoder)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """The queue should hold many steps, and not many crops of one case."""
        c = self.config
        per_step = batch_size * (2 if c.symmetric else 1)
        found = []
        if cases == 1 and not c.same_case_negatives:
            found.append(
                "the pool has one case, and crops of one case are not negatives of each other: there is nothing to contrast "
                "and the loss will be 0. Use a method without negatives (byol, simsiam), or --set same_case_negatives=true"
            )
        elif c.queue > cases:
            which = "count as negatives of each other" if c.same_case_negatives else "are not negatives of each other"
            found.append(
                f"queue={c.queue} is more than the {cases} cases of the pool: it will hold about {c.queue / cases:.1f} keys "
                f"of every case, which {which}, some of them old. --set queue={cases} holds about one of each"
            )
        if c.queue < per_step:
            found.append(
                f"queue={c.queue} holds less than the {per_step} keys of one step: --set queue={8 * per_step} would "
                "remember eight steps"
            )
        return found
