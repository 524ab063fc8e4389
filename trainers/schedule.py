"""Learning-rate schedules: pure functions of progress, so a resumed run is on the same rate."""

from __future__ import annotations

import math
from typing import Literal


def poly(progress: float, exponent: float = 0.9) -> float:
    """nnU-Net's polynomial decay from 1 at progress 0 to 0 at progress 1."""
    return (1.0 - min(max(progress, 0.0), 1.0)) ** exponent


def cosine(progress: float) -> float:
    """Half a cosine from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def warmup_then(kind: Literal["poly", "cosine"], step: int, total: int, warmup: float) -> float:
    """Factor on the peak rate at a step: linear ramp over the first `warmup` share of the steps, then decay.

    Args:
        kind: decay after the ramp.
        step: 0-based step.
        total: number of steps of the run.
        warmup: share of the steps in [0, 1).
    """
    ramp = round(total * warmup)
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, total - ramp)
    return poly(progress) if kind == "poly" else cosine(progress)


def warmup_epochs(num_epochs: int) -> float:
    """Length of the fine-tuning warm-up: 50 of 1000 epochs, scaled."""
    return 0.05 * num_epochs


def sawtooth_unit(num_epochs: int) -> float:
    """Epochs of the sawtooth's first stage: 25 of 1000, 7.5 of 150 and 300, 5 % of shorter trainings."""
    return max(0.025 * num_epochs, min(7.5, 0.05 * num_epochs))


def finetune_warmup(epoch: float, num_epochs: int, ramp: float | None = None, power: float = 0.9) -> tuple[float, bool]:
    """Ramp of the whole network, then poly.

    Args:
        epoch: fractional epoch.
        num_epochs: epochs of the training.
        ramp: epochs of the ramp; None = `warmup_epochs`.
        power: exponent of the decay.

    Returns:
        Factor on the peak rate, and whether the encoder learns.
    """
    ramp = warmup_epochs(num_epochs) if ramp is None else ramp
    if epoch < ramp:
        return epoch / ramp, True
    return poly((epoch - ramp) / (num_epochs - ramp), power), True


def finetune_sawtooth(
    epoch: float, num_epochs: int, ramp: float | None = None, power: float = 0.9
) -> tuple[float, bool]:
    """Decoder alone (ramp, then poly), then the whole network (ramp, then poly): two teeth.

    Of 1000 epochs: 0-24 and 25-49 the decoder alone, 50-99 ramp of all, then poly. `ramp` is the ramp of the whole
    network; the decoder's two stages take half of it each.
    """
    unit = sawtooth_unit(num_epochs) if ramp is None else ramp / 2
    if epoch < unit:
        return epoch / unit, False
    if epoch < 2 * unit:
        return poly((epoch - unit) / unit, power), False
    if epoch < 4 * unit:
        return (epoch - 2 * unit) / (2 * unit), True
    return poly((epoch - 4 * unit) / (num_epochs - 4 * unit), power), True


def finetune_frozen(epoch: float, num_epochs: int, ramp: float | None = None, power: float = 0.9) -> tuple[float, bool]:
    """The decoder alone: ramp, then poly."""
    return finetune_warmup(epoch, num_epochs, ramp, power)[0], False


def from_scratch(epoch: float, num_epochs: int, ramp: float | None = None, power: float = 0.9) -> tuple[float, bool]:
    """nnU-Net's own: poly from the start; with a ramp if one is asked for."""
    return finetune_warmup(epoch, num_epochs, ramp or 0.0, power)
