"""How a classifier is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["finetune", "linear", "mlp", "knn"]
UNTRAINED = "random"
STEPS = 700
FROZEN_SHARE = 1 / 7
"""Wolf et al. freeze the encoder in 10 of 70 epochs."""


class TrainingSettings(BaseModel):
    """What all trainings of a comparison share; what is not said otherwise follows Wolf et al. 2023 (Sci Rep 13:20260).

    Attributes:
        method: the whole network, or a model on frozen features.
        freeze_epochs: passes over the training images in which the encoder stands still; None = a seventh of the training,
            or none for an untrained encoder, which has nothing to protect from a head that begins untrained. In a study
            an untrained encoder never stands still.
        lr: peak rate of Adam for the encoder.
        head_lr: factor on it for the head, which begins untrained. Wolf et al. have 1.
        weight_decay: of Adam.
        batch_size: images per step.
        select: the weights that do best on validation images where there are any, or the last ones.
        levels, pooling: which features.
        augment: rotate, zoom, shift and change intensities at random.
        flip: also flip, along every axis but that of slices for a 2D encoder; off where left and right matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "finetune"
    freeze_epochs: int | None = Field(None, ge=0)
    lr: float = Field(1e-4, gt=0)
    head_lr: float = Field(10.0, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(16, ge=1)
    select: Literal["best", "last"] = "best"
    levels: str = "deepest"
    pooling: Literal["avg", "max", "avgmax"] = "avgmax"
    augment: bool = True
    flip: bool = False


class ClassifySettings(TrainingSettings):
    """One training.

    Attributes:
        init: any file or name that nnssl reads, or `random`.
        steps: optimiser steps of fine-tuning, whatever the number of images; None = `epochs`, or 700.
        epochs: passes over the training images instead.
        evaluate_every: steps between two looks at validation images; None = twenty looks.
        seed: of head, order and augmentation.
    """

    init: str = UNTRAINED
    steps: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    evaluate_every: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    def schedule(self, images: int) -> tuple[int, int]:
        """Optimiser steps, and how many of them the encoder stands still, for a number of training images."""
        per_epoch = max(1, -(-images // self.batch_size))
        steps = self.epochs * per_epoch if self.epochs else self.steps or STEPS
        share = 0 if self.init == UNTRAINED else FROZEN_SHARE
        frozen = round(share * steps) if self.freeze_epochs is None else self.freeze_epochs * per_epoch
        return steps, min(frozen, steps)
