"""What every self-supervised method is: an nn.Module that knows nothing of trainers, files or nnU-Net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from nnssl.losses import Ranks
from nnssl.views import Geometry

Views = dict[str, torch.Tensor]
"""What a method shows its network: named tensors, one row per crop of this process."""

OptimizerName = Literal["adamw", "adam", "radam", "sgd", "lars", "lamb"]


class MethodConfig(BaseModel):
    """Hyper-parameters of a method, with ranges, so that a bad value is one clear line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Optimisation:
    """The optimiser a method works with unless the user says otherwise.

    Attributes:
        optimizer: `adamw`, `adam`, `radam`, `sgd` (Nesterov), `lars` or `lamb`.
        lr: peak learning rate, absolute.
        width: features of the first stage that `lr` was found at; wider networks get lr * width / theirs, because Adam
            moves every weight by the rate, however many inputs add up (Yang et al. 2022, arXiv 2203.03466). None =
            the same rate for all.
        momentum: of `sgd` and `lars`.
        weight_decay: as the optimiser takes it; never applied to biases and norms.
        schedule: `poly` (exponent 0.9, nnU-Net's) or `cosine`, after the warm-up.
        warmup: share of all steps spent in a linear ramp from zero.
        clip: largest gradient norm.
    """

    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    width: int | None = None
    momentum: float = 0.99
    weight_decay: float = 0.05
    schedule: Literal["poly", "cosine"] = "cosine"
    warmup: float = 0.05
    clip: float = 12.0


@dataclass(frozen=True)
class CropBatch:
    """Crops as the loader hands them over, on the training device.

    Attributes:
        images: (B, C, *spatial) float32, normalised by the plans, zero where a crop reaches beyond its image. The spatial
            size is the method's `read_size()`.
        inside: (B, dim, 2) int64, first and one-past-last voxel of each axis that belongs to the image.
        case: (B,) int64, position in the pool of the case, or of the first case of its subject where subjects are known:
            equal numbers show one person, so they are no negatives of each other.
        partner: the same place in another scan or frame of the same subject, if the method asks for it
            (`wants_partner`); a subject with one scan is its own partner.
    """

    images: torch.Tensor
    inside: torch.Tensor
    case: torch.Tensor
    partner: CropBatch | None = None

    def to(self, device: torch.device) -> CropBatch:
        """Move to a device without waiting for it."""
        return CropBatch(
            self.images.to(device, dtype=torch.float32, non_blocking=True),
            self.inside.to(device, non_blocking=True),
            self.case.to(device, non_blocking=True),
            None if self.partner is None else self.partner.to(device),
        )


@dataclass(frozen=True)
class Losses:
    """Result of a forward pass.

    Attributes:
        total: differentiable scalar.
        terms: detached scalars by name, for the log; left on the device.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What pretraining leaves behind.

    Attributes:
        encoder: the plans' encoder (the teacher's where a method exports the teacher).
        decoder: nnU-Net's own decoder if the method trained it, else None.
    """

    encoder: nn.Module
    decoder: nn.Module | None = None


class Method(nn.Module, ABC):
    """A self-supervised method.

    Subclasses set `name`, `Config`, `optimisation` and `citation`, build their heads in `__init__`, and define
    `views`, `forward` and `exported`. All state (teacher, queue, prototypes) lives in buffers or parameters, so it is
    in the checkpoint. Masks are arguments, never globals; True = visible.

    Args:
        unet: the plans' network (`.encoder`, `.decoder`), freshly initialised; take what is needed of it.
        geometry: patch size and spacing of the crops.
        channels: image channels C.
        config: an instance of the class' `Config`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    optimisation: ClassVar[Optimisation] = Optimisation()
    citation: ClassVar[str]
    crops_alone: ClassVar[bool] = False
    """Whether the loss is a mean over crops or voxels in which no crop meets another, and a forward pass leaves nothing
    behind but norm statistics: then a batch may be worked through in parts (`accumulate`)."""

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        super().__init__()
        self.geometry = geometry
        self.channels = channels
        self.config = config
        self.ranks = Ranks()

    def assign_ranks(self, ranks: Ranks) -> None:
        """The trainer says how a batch is spread over processes."""
        self.ranks = ranks

    def read_size(self) -> tuple[int, ...]:
        """Voxels per axis of the crops that `views` wants; the patch unless a method looks around it.

        With 2D plans three numbers are allowed, (slices, Y, X): the crops are then (B, C, slices, Y, X).
        """
        return self.geometry.patch_size

    @property
    def wants_partner(self) -> bool:
        """Whether every crop should come with one of the same subject's other scan (`CropBatch.partner`)."""
        return False

    @abstractmethod
    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """Make what the network will see. Runs on the device of the crops, without gradient.

        Augmentation that is not part of the task happens only in training mode (`self.training`), so that validation
        is a fixed task.

        Args:
            crops: B crops.
            generator: CPU generator, seeded per step by the trainer; the only source of randomness.
        """

    @abstractmethod
    def forward(self, views: Views) -> Losses:
        """Score the network's answer. No host synchronisation.

        In a distributed run the total's average over processes must be the loss of the whole batch: see
        `nnssl.losses.ranks` and use `self.ranks`.
        """

    @abstractmethod
    def exported(self) -> Exported:
        """The encoder (and decoder) that is the result."""

    def after_step(self, progress: float) -> None:
        """Update momentum teachers, queues, prototypes after an optimiser step; progress in [0, 1] of the run."""

    def diagnostics(self) -> dict[str, float]:
        """Collapse metrics and the like, computed on demand (once per epoch, after the validation)."""
        return {}

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """Warnings to give before the start: sentences on what will not work well with this pool or batch.

        Args:
            cases: in the training pool.
            batch_size: crops per step over all processes.
        """
        return []

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Warnings to give after an epoch: sentences on what the metrics show, such as a collapse.

        Args:
            row: the epoch's metrics, `diagnostics` among them.
        """
        return []

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """Pictures a person would want to see: name -> (B, C, *spatial), one column each, in order.

        NaN is drawn as hidden. Called on one process only: nothing may be gathered here.
        """
        return dict(views)
