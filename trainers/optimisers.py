"""Optimisers, shared by pretraining and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and biases, norms and tokens (one axis or fewer), which do not."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (decay if parameter.ndim > 1 else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def make_optimizer(
    name: Literal["adamw", "sgd"], groups: list[dict[str, Any]], lr: float, fused: bool = False
) -> torch.optim.Optimizer:
    """AdamW with betas .9/.999, or SGD with Nesterov momentum .99 as in nnU-Net."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused or None)
    return torch.optim.SGD(groups, lr=lr, momentum=0.99, nesterov=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set one learning rate on all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
