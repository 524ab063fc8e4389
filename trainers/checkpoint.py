"""A pretraining run's checkpoint: all that is needed to go on as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from nnssl.data.pool import Pool
from nnssl.errors import NnsslError

FORMAT = 1


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        epoch: current epoch, from 0.
        step: optimiser steps done within it.
        sums: per loss term, the sum over these steps, on the device.
        history: one row per finished epoch, as in metrics.jsonl.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


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
        "history": state.history,
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
    """Put a checkpoint back; the counterpart of `pack`."""
    if content["pool_signature"] != pool.signature:
        raise NnsslError(
            "the preprocessed pool, or the weights of its cases, have changed since this run began, so it cannot be "
            "continued as the same run: start a new one with --name, or restore them"
        )
    method.load_state_dict(content["method_state"])
    optimizer.load_state_dict(content["optimizer_state"])
    if scaler is not None and content["scaler_state"] is not None:
        scaler.load_state_dict(content["scaler_state"])
    sums = {k: v.to(device) for k, v in content["sums"].items()}
    return RunState(content["epoch"], content["step"], sums, list(content["history"]))


def check_format(content: dict[str, Any], where: str) -> None:
    """Refuse what is not a pretraining checkpoint of this format."""
    if "nnssl_checkpoint" not in content:
        raise NnsslError(f"{where} is not a pretraining checkpoint of nnssl")
    if content["nnssl_checkpoint"] > FORMAT:
        raise NnsslError(f"{where} was written by a newer nnssl (format {content['nnssl_checkpoint']}): update nnssl")
