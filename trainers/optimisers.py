"""Optimisers, shared by pretraining and fine-tuning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from nnssl.methods.base import OptimizerName

TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "radam": torch.optim.RAdam,
    "sgd": torch.optim.SGD,
}


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
    name: OptimizerName, groups: list[dict[str, Any]], lr: float, fused: bool = False, momentum: float = 0.99
) -> torch.optim.Optimizer:
    """An optimiser by name.

    Args:
        name: `adamw`, `adam` and `radam` with betas .9/.999; `lamb` with .9/.95; `sgd` with Nesterov momentum; `lars`.
            LARS and LAMB are timm's; both scale the rate of each tensor by its norm.
        groups: as `parameter_groups` makes them.
        lr: absolute learning rate.
        fused: one kernel per step, on a GPU, where the optimiser has it.
        momentum: of `sgd` (nnU-Net: .99) and `lars`.
    """
    if name in TORCHS:
        return _torchs(TORCHS[name], groups, lr, fused, momentum)
    from timm.optim import Lamb, Lars

    return Lars(groups, lr=lr, momentum=momentum) if name == "lars" else Lamb(groups, lr=lr, betas=(0.9, 0.95))


def _torchs(
    cls: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], lr: float, fused: bool, momentum: float
) -> torch.optim.Optimizer:
    has_fused = "fused" in inspect.signature(cls).parameters
    options: dict[str, Any] = {"fused": fused or None} if has_fused else {}
    if cls is torch.optim.SGD:
        options |= {"momentum": momentum, "nesterov": momentum > 0}
    optimizer = cls(groups, lr=lr, **options)
    if cls is torch.optim.SGD and fused and momentum:
        optimizer.register_step_pre_hook(_momentum_from_zero)
    return optimizer


def _momentum_from_zero(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """The same step, as momentum begins with the first gradient. torch's fused SGD takes memory as it finds it instead.

    Where its first step is skipped (`found_inf`), that would remain; and it refuses a parameter that joins the others later.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; a group that has an `lr_scale` gets that multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
