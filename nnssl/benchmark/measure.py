"""Settings measured side by side: all are built, then take turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median

import torch

from nnssl.benchmark.clock import PARTS, timed_step
from nnssl.benchmark.machine import PeakMemory
from nnssl.benchmark.operations import count_flops
from nnssl.data.sampling import TRAINING
from nnssl.errors import NnsslError
from nnssl.methods import CropBatch
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.launch import Request
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.trainers.trial import out_of_memory

log = logging.getLogger(__name__)

WARM_UP = 2
"""Steps after building, the first of which may compile and choose algorithms."""


@dataclass
class Measured:
    """One method with its settings, and what was measured of it.

    Attributes:
        label: the settings that tell it from the other candidates of its method, as on the command line.
        flops: per step; None where they could not be counted.
        memory: peak bytes, see PeakMemory.
        rounds: mean seconds of each part of a step, of every round.
    """

    label: str
    trainer: nnsslTrainer
    flops: int | None
    memory: int | None
    rounds: list[dict[str, float]] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Crops per step."""
        return self.trainer.run.batch_size or 1

    def seconds(self, part: str) -> float:
        """Median over rounds of a part of a step."""
        return median(r[part] for r in self.rounds)

    @property
    def step_seconds(self) -> float:
        """Median over rounds of a whole step, reading included."""
        return median(sum(r.values()) for r in self.rounds)

    @property
    def compute_seconds(self) -> float:
        """Median over rounds of a step without reading."""
        return median(sum(r.values()) - r["data"] for r in self.rounds)

    @property
    def data_wait(self) -> float:
        """Share of a step spent waiting for data."""
        return median(r["data"] / sum(r.values()) for r in self.rounds)

    @property
    def sample_seconds(self) -> list[float]:
        """Seconds per crop of every round."""
        return [sum(r.values()) / self.batch_size for r in self.rounds]


@dataclass(frozen=True)
class Comparison:
    """Time per crop of one setting as a share of another's: below 1 the first is faster.

    Attributes:
        ratio: of the medians.
        low, high: smallest and largest ratio in a round.
    """

    first: Measured
    second: Measured
    ratio: float
    low: float
    high: float


def build(request: Request, device: torch.device, label: str) -> Measured:
    """Build a request's trainer, take its first steps, count operations.

    Raises:
        NnsslError: the device's memory does not hold it.
    """
    peak = PeakMemory(device)
    try:
        _, trainer = initialized_trainer(request, device)
        trainer.method.train()
        batch = one_batch(trainer)
        for number in range(WARM_UP):
            timed_step(trainer, iter([batch]), number)
        memory = peak.peak()
        return Measured(label, trainer, _operations(trainer, batch, label), memory)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise NnsslError(
            f"{request.method} {label}: the memory of the device is too small; try a smaller --set batch_size=N"
        ) from error


def _operations(trainer: nnsslTrainer, batch: CropBatch, label: str) -> int | None:
    """Of one step. Counting runs it uncompiled, which may need more memory than the compiled one that is timed."""
    try:
        return count_flops(trainer, batch)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        log.warning(
            "%s: operations are not counted, TFLOP/s and its share of the peak are left out: counting runs a step without "
            "torch.compile, and the memory of the device does not hold that",
            f"{trainer.run.method} {label}".strip(),
        )
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()  # other settings are still to be built
    return None


def one_batch(trainer: nnsslTrainer) -> CropBatch:
    """The first batch of a run, on its device."""
    return next(trainer._loader(trainer.train_pool, TRAINING, range(1), workers=0))


def take_turns(candidates: Sequence[Measured], rounds: int, steps: int, read: bool) -> None:
    """Measure all candidates `rounds` times, in turns, in the opposite order every other round.

    Args:
        candidates: their `rounds` are filled.
        rounds: turns of each.
        steps: timed steps per turn, after one that is not.
        read: whether every step reads its batch; else one batch is used again and again.
    """
    number = itertools.count(WARM_UP)
    for turn in range(rounds):
        for measured in candidates if turn % 2 == 0 else reversed(candidates):
            measured.rounds.append(_turn(measured.trainer, next(number) * (steps + 1), steps, read))
        log.debug("round %d of %d", turn + 1, rounds)


def _turn(trainer: nnsslTrainer, first: int, steps: int, read: bool) -> dict[str, float]:
    with closing(_reading(trainer, first, steps + 1) if read else _repeating(trainer)) as batches:
        times = [timed_step(trainer, batches, first + i) for i in range(steps + 1)][1:]
    return {part: sum(t[part] for t in times) / steps for part in PARTS}


def _repeating(trainer: nnsslTrainer) -> Generator[CropBatch]:
    yield from itertools.repeat(one_batch(trainer))


def _reading(trainer: nnsslTrainer, first: int, steps: int) -> Generator[CropBatch]:
    """Batches as a run reads them.

    Every reading process delivers its first batch at about the same time. These are passed over, or a few steps would
    live on them and never wait.
    """
    workers = trainer._workers()
    last = first + workers + steps + 4 * workers  # they go on reading while the last steps are timed
    with closing(trainer._loader(trainer.train_pool, TRAINING, range(first, last), workers)) as batches:
        yield from itertools.islice(batches, workers, workers + steps)


def compare(first: Measured, second: Measured) -> Comparison:
    """The first candidate against the second."""
    pairs = [a / b for a, b in zip(first.sample_seconds, second.sample_seconds)]
    ratio = median(first.sample_seconds) / median(second.sample_seconds)
    return Comparison(first, second, ratio, min(pairs), max(pairs))
