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
        self._marks: list[tuple[str, Any]] = []

    @property
    def last(self) -> str:
        """The part that ended last."""
        return self._marks[-1][0] if self._marks else ""

    def mark(self, part: str) -> None:
        """Note this moment, at which a part of the step ends."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            wait(self.device)
            self._marks.append((part, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part from the first moment on; a part may have come several times. Moments are then forgotten."""
        wait(self.device)
        marks, self._marks = self._marks, []
        found: dict[str, float] = {}
        for (_, a), (part, b) in itertools.pairwise(marks):
            seconds = a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a
            found[part] = found.get(part, 0.0) + seconds
        return found


@contextmanager
def watched(trainer: nnsslTrainer, clock: StepClock) -> Iterator[None]:
    """Have the clock marked where the trainer's step goes over from one part to the next.

    A step that accumulates gradients goes through forward and backward pass several times.
    """
    views, network, optimise = trainer._views, trainer.network, trainer._optimiser_step

    def made_views(*arguments: Any, **named: Any) -> Any:
        made = views(*arguments, **named)
        clock.mark("views")
        return made

    def went_forward(*arguments: Any, **named: Any) -> Any:
        if clock.last == "forward":
            clock.mark("backward")
        losses = network(*arguments, **named)
        clock.mark("forward")
        return losses

    def went_backward(*arguments: Any, **named: Any) -> Any:
        clock.mark("backward")
        return optimise(*arguments, **named)

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
        clock.mark("data")
        trainer._step(batch)
        clock.mark("optimiser")
    return {"data": waited, **clock.seconds()}
