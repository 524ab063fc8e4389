"""What dino, ibot and smit share: a student and its moving average agree on a soft assignment to learned prototypes.

Caron et al. 2021, DINO (ICCV, arXiv 2104.14294). The teacher's assignment of one view is the target for the student's
assignment of another. Centring and sharpening of the teacher keep both from answering the same for every crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.losses.distillation import sharpen
from nnssl.losses.sinkhorn import sinkhorn
from nnssl.losses.usage import FEW_USED, SAME_FOR_ALL, Usage, assignment_sums
from nnssl.methods.base import Exported, MethodConfig
from nnssl.methods.joint_embedding import JointEmbedding, JointEmbeddingConfig
from nnssl.networks import pool
from nnssl.networks.heads import MLPHead, Prototypes
from nnssl.networks.momentum import MomentumCopy, cosine_momentum
from nnssl.networks.running import RunningMean, RunningNorm
from nnssl.views import Geometry


class SelfDistillationConfig(JointEmbeddingConfig):
    """Options of every self-distillation method."""

    prototypes: int = Field(256, ge=2, description="number of prototypes; a small pool cannot feed many")
    hidden: int = Field(1024, ge=1, description="width of the head's two hidden layers")
    bottleneck: int = Field(256, ge=2, description="width of the embedding that is compared with the prototypes")
    head_norm: Literal["layer", "none"] = Field("layer", description="norm in the head")
    feature_norm: Literal["running", "none"] = Field(
        "running", description="running: the head sees features less their running mean, divided by their running SD"
    )
    student_temperature: float = Field(0.1, gt=0, description="tau_s; softmax temperature of the student")
    teacher_temperature: float = Field(0.04, gt=0, description="tau_t after its warm-up; lower is sharper")
    teacher_temperature_start: float = Field(0.04, gt=0, description="tau_t at the start; changes linearly")
    temperature_warmup: float = Field(0.1, ge=0, le=1, description="share of the run in which tau_t changes")
    centring: Literal["centre", "sinkhorn"] = Field(
        "centre",
        description="what keeps one prototype from winning everywhere: a running mean that is taken away, or an even "
        "assignment within the batch (of whole crops; positions are always centred)",
    )
    freeze: float = Field(
        0.01, ge=0, lt=1, description="share of the run in which the student's prototypes do not move"
    )
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="of the running mean of the teacher's scores")
    momentum_start: float = Field(0.99, ge=0, lt=1, description="teacher's momentum at the start; it rises to 1")
    export: Literal["teacher", "student"] = Field("teacher", description="whose encoder is the result")


class PrototypeHead(nn.Module):
    """Multi-layer perceptron of three layers, a bottleneck on the unit sphere, and prototypes.

    Args:
        width: of the features.
        config: widths and norm.
    """

    def __init__(self, width: int, config: SelfDistillationConfig) -> None:
        super().__init__()
        self.mlp = MLPHead(width, config.hidden, config.bottleneck, layers=3, norm=config.head_norm)
        self.prototypes = Prototypes(config.bottleneck, config.prototypes)

    def forward(self, x: torch.Tensor, frozen: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features to embeddings and scores.

        Args:
            x: (..., width).
            frozen: see `Prototypes`.

        Returns:
            (..., bottleneck), and (..., K) cosines in float32.
        """
        z = self.mlp(x)
        return z, self.prototypes(z, frozen)


class SelfDistillation(JointEmbedding):
    """Base of the self-distillation methods: heads, teacher, centre, temperature. Subclasses write views and `forward`."""

    config: SelfDistillationConfig
    temperature: torch.Tensor
    frozen: torch.Tensor

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__(unet, geometry, channels, config)
        c = self.config
        self.head = PrototypeHead(self.backbone.width, c)
        self.teacher_encoder = MomentumCopy(self.backbone.encoder)
        self.teacher_head = MomentumCopy(self.head)
        self.norm = RunningNorm(self.backbone.width) if c.feature_norm == "running" else None
        self.centre = RunningMean(torch.zeros(c.prototypes), c.centre_momentum)
        self.register_buffer("temperature", torch.tensor(float(c.teacher_temperature_start)))
        self.register_buffer("frozen", torch.tensor(float(c.freeze > 0)))
        self._usage = Usage(c.prototypes)

    def pooled(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Feature maps (b, F, *grid) of V views, pooled and gathered: (B, V, width) float32, B over all processes."""
        return self.ranks.gather(torch.stack([pool(m.float(), self.config.pooling) for m in maps], dim=1))

    def scores(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """The student's answer to V views, (B, V, K), from its feature maps (b, F, *grid)."""
        x = self.pooled(maps)
        return self.head(x if self.norm is None else self.norm(x), self.frozen)[1]

    def teach(self, views: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The teacher's answer to whole views; notes what the running means and the diagnostics need.

        Args:
            views: T views (b, C, *spatial); the collapse metrics compare the first two.

        Returns:
            T feature maps (b, F, *grid), and distributions (B, T, K) for the crops of all processes.
        """
        maps = encode_by_size(lambda x: self.teacher_encoder(x)[-1], views)
        x = self.pooled(maps)
        if self.norm is not None:
            self.norm.moments.see(torch.cat([x, x.square()], dim=-1).mean((0, 1)))
            x = self.norm(x)
        z, scores = self.teacher_head(x)
        self._watch(z[:, 0], z[:, 1])
        if self.config.centring == "sinkhorn":
            epsilon: Any = self.temperature
            targets = sinkhorn(scores.flatten(0, 1), epsilon).view_as(scores)
        else:
            targets = sharpen(scores, self.centre.value, self.temperature)
            self.centre.see(scores.mean((0, 1)))
        if not self.training:
            self._usage.add(assignment_sums(targets, torch.ones_like(targets[..., 0])))
        return maps, targets

    def teachers(self) -> list[tuple[MomentumCopy, nn.Module]]:
        """Every teacher and whom it follows."""
        return [(self.teacher_encoder, self.backbone.encoder), (self.teacher_head, self.head)]

    def after_step(self, progress: float) -> None:
        """Teachers follow, running means move, the teacher's temperature changes, prototypes thaw."""
        c = self.config
        momentum = cosine_momentum(c.momentum_start, progress)
        for teacher, student in self.teachers():
            teacher.update(student, momentum)
        for module in self.modules():
            if isinstance(module, RunningMean):
                module.update()
        warm = min(1.0, progress / c.temperature_warmup) if c.temperature_warmup > 0 else 1.0
        start, end = c.teacher_temperature_start, c.teacher_temperature
        self.temperature.fill_(start + warm * (end - start))
        self.frozen.fill_(float(progress < c.freeze))

    def exported(self) -> Exported:
        """The teacher's encoder, as in the paper, unless the student's is asked for."""
        teacher = self.config.export == "teacher"
        return Exported(self.teacher_encoder.module if teacher else self.backbone.encoder)

    def diagnostics(self) -> dict[str, float]:
        """Collapse metrics of the teacher's embeddings, and how its assignments spread over the prototypes."""
        return {**super().diagnostics(), **self._usage.metrics()}

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Sinkhorn divides the batch evenly among the prototypes, which takes a batch."""
        c = self.config
        if c.centring == "centre" or 2 * batch_size >= c.prototypes:
            return []
        return [
            f"centring=sinkhorn spreads {2 * batch_size} views per step evenly over {c.prototypes} prototypes: use "
            "centring=centre, fewer prototypes or a larger --batch-size"
        ]

    def health(self, row: Mapping[str, float]) -> list[str]:
        """What collapse looks like here: one prototype for all crops, or all prototypes for every crop."""
        found = super().health(row)
        for prefix, what in (("", "crops"), ("patch_", "positions")):
            used, single = row.get(f"{prefix}usage_entropy"), row.get(f"{prefix}assignment_entropy")
            if used is None or single is None:
                continue
            if used < FEW_USED:
                found.append(
                    f"all {what} are assigned to one prototype ({prefix}usage_entropy {used:.3f} of at most 1): collapse; "
                    "try a higher teacher_temperature, a lower centre_momentum or a lower --lr"
                )
            elif used - single < SAME_FOR_ALL:
                found.append(
                    f"the teacher gives all {what} the same assignment ({prefix}usage_entropy {used:.3f}, "
                    f"{prefix}assignment_entropy {single:.3f}): it tells nothing apart; try a lower teacher_temperature, "
                    "or wait if the run has just begun"
                )
        return found


def encode_by_size(encode: Any, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Feature maps of several views, one pass of the encoder per size: views of one size are put behind each other.

    Args:
        encode: (N, C, *spatial) -> (N, F, *grid).
        views: V tensors (B, C, *spatial).

    Returns:
        V tensors (B, F, *grid), in the order of `views`.
    """
    sizes: dict[torch.Size, list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(view.shape, []).append(i)
    found: dict[int, torch.Tensor] = {}
    for places in sizes.values():
        parts = encode(torch.cat([views[i] for i in places])).chunk(len(places))
        found |= dict(zip(places, parts))
    return [found[i] for i in range(len(views))]
