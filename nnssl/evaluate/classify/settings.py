"""How a classifier is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["finetune", "linear", "mlp", "knn"]


class ClassifySettings(BaseModel):
    """Settings of `nnssl_classify`; the defaults of fine-tuning are those of Wolf et al. 2023 (Sci Rep 13:20260).

    Attributes:
        method: the whole network, or a model on frozen features.
        init: any file or name that nnssl reads, or `random`.
        steps: optimiser steps of fine-tuning.
        freeze_share: share of the steps in which the encoder stands still.
        lr, weight_decay: of Adam.
        batch_size: images per step.
        levels, pooling: which features.
        folds: of the cross-validation, by patient.
        seed: of folds, head, order and augmentation.
        flip: flip images at random along every axis; off where left and right matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "finetune"
    init: str = "random"
    steps: int = Field(700, ge=1)
    freeze_share: float = Field(1 / 7, ge=0, lt=1)
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(16, ge=2)
    levels: str = "deepest"
    pooling: Literal["avg", "max", "avgmax"] = "avgmax"
    folds: int = Field(5, ge=2)
    seed: int = Field(0, ge=0)
    flip: bool = False
