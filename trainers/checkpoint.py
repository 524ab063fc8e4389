"""A pretraining run's checkpoint: all that is needed to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from nnssl.trainers.checkpoint_checks import DEVICE_SETTINGS, check_checkpoint
from nnssl.trainers.trouble import Trouble

from nnssl.data.pool import Pool
from nnssl.errors import NnsslError
from nnssl.files import check_number
from nnssl.transfer.loading import no_surprise

FORMAT = 2
"""2 has the numerical trouble and what came of it; files of format 1 are read as runs that had none."""
LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"
PREVIOUS, DAMAGED = "checkpoint_previous.pth", "checkpoint_damaged.pth"


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        epoch: current epoch, from 0.
        step: optimiser steps done within it.
        sums: per loss term, the sum over these steps, on the device.
        history: one row per finished epoch, as in metrics.jsonl.
        rate: factor on the learning rate, below 1 after the run has gone back because of numerical trouble.
        rollbacks: how often it has.
        trouble: what is on record about steps whose numbers were not finite.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    rate: float = 1.0
    rollbacks: int = 0
    trouble: Trouble = field(default_factory=lambda: Trouble(torch.device("cpu")))


def pack(
    state: RunState,
    config: dict[str, Any],
    method: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    pool: Pool,
) -> dict[str, Any]:
    """The checkpoint's content: tensors and plain values only."""
    return {
        "nnssl_checkpoint": FORMAT,
        "config": config,
        "epoch": state.epoch,
        "step": state.step,
        "sums": {k: v.detach().cpu() for k, v in state.sums.items()},
        "history": list(state.history),
        "rate": state.rate,
        "rollbacks": state.rollbacks,
        "trouble": state.trouble.content(),
        "method_state": method.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "scaler_state": scaler.state_dict() if scaler is not None else None,
        "pool_signature": pool.signature,
    }


def restore(
    content: dict[str, Any],
    method: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    pool: Pool,
    device: torch.device,
) -> RunState:
    """Put a checkpoint back; the counterpart of `pack`.

    Raises:
        NnsslError: it is of another pool, or not what `pack` makes. Then nothing has changed.
    """
    if content.get("pool_signature") != pool.signature:
        raise NnsslError(
            "the preprocessed pool, or the weights of its cases, have changed since this run began, so it cannot be "
            "continued as the same run: start a new one with --name, or restore them"
        )
    with no_surprise("the run's checkpoint"):
        check_checkpoint(content, method, optimizer, scaler)
        method.load_state_dict(content["method_state"])
        load_optimizer(optimizer, content["optimizer_state"])
        if scaler is not None and content.get("scaler_state") is not None:
            scaler.load_state_dict(content["scaler_state"])
        sums = {k: v.to(device) for k, v in content["sums"].items()}
        trouble = Trouble.restored(content.get("trouble"), device)
        past = content.get("rate", 1.0), content.get("rollbacks", 0)
        return RunState(content["epoch"], content["step"], sums, list(content["history"]), *past, trouble)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimiser's state that may come from another kind of device or another memory format.

    Args:
        optimizer: of this process; its own way of computing stays.
        saved: as `state_dict` gave it.
    """
    groups = [dict(group) for group in saved["param_groups"]]
    for group, own in zip(groups, optimizer.param_groups):
        group.update({key: own[key] for key in DEVICE_SETTINGS if key in own})
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if (
                isinstance(value, torch.Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(
                    value
                )  # fused kernels want one layout


def place_of(content: Mapping[str, Any]) -> tuple[int, int]:
    """Epoch and step within it."""
    return content.get("epoch", 0), content.get("step", 0)


def at_fixed_place(content: Mapping[str, Any]) -> bool:
    """Whether every run with these settings has a checkpoint there, whatever the clock says and whatever interrupts it.

    These are the start, the end of the first epoch, and that of every `save_every`-th.
    """
    epoch, step = place_of(content)
    return step == 0 and (epoch <= 1 or epoch % content["config"]["save_every"] == 0)


def check_format(content: dict[str, Any], where: str) -> None:
    """Refuse what is not a pretraining checkpoint of this format."""
    if "nnssl_checkpoint" not in content:
        raise NnsslError(f"{where} is not a pretraining checkpoint of nnssl")
    check_number(content, "nnssl_checkpoint", FORMAT, where)
