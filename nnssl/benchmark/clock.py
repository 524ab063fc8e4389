"""The time of a training step's parts, measured from outside: the step is the trainer's own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nnssl.methods import CropBatch
from nnssl.trainers.pretraining import nnsslTrainer

PARTS = ("data", "views", "forward", "backward", "optimiser")
"""Of a step, in order. `forward` holds the clearing of gradients, `optimiser` clipping, teachers and queues."""


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class StepClock:
    """Moments of a step. On a GPU they are events in its queue: marking does not make the step wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Note this moment."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            wait(self.device)
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds between the moments, which are then forgotten."""
        wait(self.device)
        marks, self._marks = self._marks, []
        if self.device.type == "cuda":
            return [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks)]
        return [b - a for a, b in itertools.pairwise(marks)]


@contextmanager
def watched(trainer: nnsslTrainer, clock: StepClock) -> Iterator[None]:
    """Have the clock marked where the trainer's step goes over from one part to the next."""
    views, network, optimise = trainer._views, trainer.network, trainer._optimiser_step

    def made_views(*arguments: Any) -> Any:
        made = views(*arguments)
        clock.mark()
        return made

    def went_forward(*arguments: Any) -> Any:
        losses = network(*arguments)
        clock.mark()
        return losses

    def went_backward() -> None:
        clock.mark()
        optimise()

    replaced = {"_views": made_views, "network": went_forward, "_optimiser_step": went_backward}
    for name, value in replaced.items():
        setattr(trainer, name, value)
    try:
        yield
    finally:
        for name in replaced:
            delattr(trainer, name)  # the class has the methods
        trainer.network = network


def timed_step(trainer: nnsslTrainer, batches: Iterator[CropBatch], number: int) -> dict[str, float]:
    """One step of a run, with the seconds of its `PARTS`.

    Args:
        trainer: initialised.
        batches: where the step's batch comes from.
        number: of the step; rate, views and masks follow from it. Counted from 0 again where the run would end.
    """
    clock = StepClock(trainer.device)
    trainer.state.epoch, trainer.state.step = 0, number % (trainer.run.epochs * trainer.run.iterations)
    wait(trainer.device)
    begin = time.perf_counter()
    batch = next(batches)
    wait(trainer.device)
    waited = time.perf_counter() - begin
    with watched(trainer, clock):
        clock.mark()
        trainer._step(batch)
        clock.mark()
    return dict(zip(PARTS, [waited, *clock.seconds()], strict=True))
