"""How a sparse encoder is computed in a run: as asked, or the faster way, measured on this device with this run's shapes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from nnssl.trainers.trial import copied, out_of_memory, own_draws, random_crops, views_of
from torch import distributed as dist

from nnssl.data.loader import rank_share
from nnssl.errors import NnsslError
from nnssl.losses import Ranks
from nnssl.methods.sparse_encoding import ExecutorName, SparseEncoding

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer

ROUNDS = 3
"""Timed steps with each executor, in turns, after a first one."""
MEASURED_ON = ("cpu", "cuda")
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Relative difference of loss and gradient's norm between the two ways that rounding explains, by precision: ten times and
more what small networks show (4e-7, 2e-3 and 3e-4 at most)."""


def settle_executor(trainer: nnsslTrainer) -> list[str]:
    """Give the run's executor to the method, or to those of its parts that have a choice. To be called before compiling.

    `auto` becomes what was chosen, in the run's settings too, so that a continued run computes as it began.

    Returns:
        Lines for the log.

    Raises:
        NnsslError: tiles for a method that shows its encoder whole crops.
    """
    parts = [m for m in trainer.method.modules() if isinstance(m, SparseEncoding)]
    asked, lines = trainer.run.executor, list[str]()
    if not parts:
        if asked == "tiles":
            raise NnsslError(
                f"executor=tiles: the encoder of {trainer.run.method} sees whole crops, so there are no tiles to compute "
                "on; only spark has the choice. Leave --executor out"
            )
        chosen: ExecutorName = "dense"
    elif asked == "auto":
        chosen, lines = _faster(trainer, parts)
    else:
        chosen, lines = asked, [f"sparse encoder: computed as '{asked}', as set"]
    trainer.run = trainer.run.model_copy(update={"executor": chosen})
    for part in parts:
        part.use_executor(chosen)
    return lines


def _faster(trainer: nnsslTrainer, parts: list[SparseEncoding]) -> tuple[ExecutorName, list[str]]:
    device = trainer.device
    if device.type not in MEASURED_ON:
        return "dense", [f"sparse encoder: computed as 'dense'; tiles have not been tested on {device.type}"]
    share = rank_share(trainer.run.batch_size or 1, trainer.local_rank, trainer.world_size)
    crops = -(-len(share) // trainer.run.accumulate)  # at once
    seconds: dict[str, float] = {}  # infinite where memory does not suffice
    compiled = trainer._do_i_compile()
    for part in parts:
        for name, values in measure_executors(part, crops, device, trainer._autocast, compiled).items():
            seconds[name] = seconds.get(name, 0.0) + median(values)
    if trainer.is_ddp:  # all processes must choose alike
        summed = torch.tensor(list(seconds.values()), dtype=torch.float32, device=device)
        dist.all_reduce(summed)
        seconds = dict(zip(seconds, (summed / trainer.world_size).tolist()))
    tiles, dense = seconds["tiles"], seconds["dense"]
    if tiles == dense == math.inf:
        raise NnsslError(
            f"executor=auto: the memory of the device is too small for {crops} crop(s) at once, dense or with tiles: try a "
            "smaller --batch-size, a larger accumulate, or --set checkpointing=true"
        )
    chosen: ExecutorName = "tiles" if tiles < dense else "dense"
    if math.inf in (tiles, dense):
        other = "dense" if chosen == "tiles" else "with tiles"
        return chosen, [
            f"sparse encoder: computed as '{chosen}'; the memory of {device} is too small for a step {other}"
        ]
    if chosen == "tiles":
        apart = _apart(trainer, parts, min(2, crops))
        allowed = AGREEMENT[trainer.precision]
        if apart is None:
            return "dense", [
                f"sparse encoder: computed as 'dense'; the memory of {device} is too small to compare tiles with it, so "
                "--executor tiles would be unchecked"
            ]
        if not apart <= allowed:  # not a number is wrong too
            return "dense", [
                f"WARNING: sparse encoder: computed as 'dense', because tiles disagree with it on {device} by "
                f"{apart:.2g}, more than the {allowed:.2g} that rounding explains: please report this, with the versions "
                "of nnssl_doctor"
            ]
    return chosen, [
        f"sparse encoder: computed as '{chosen}', the faster way here: {tiles:.3f} s per step with tiles, {dense:.3f} s "
        f"dense, ratio {tiles / dense:.2f} (forward and backward, median of {ROUNDS} steps in turns, random crops)"
    ]


def _apart(trainer: nnsslTrainer, parts: list[SparseEncoding], crops: int) -> float | None:
    """The largest `disagreement` of any part in any process; None where memory did not suffice to find out in one."""
    try:
        each = [disagreement(part, trainer.device, trainer._autocast, crops) for part in parts]
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        each = []
    worst = max((value if math.isfinite(value) else math.inf for value in each), default=0.0)
    if trainer.is_ddp:
        of_all = torch.tensor([worst, float(not each)], device=trainer.device)
        dist.all_reduce(of_all, dist.ReduceOp.MAX)
        return None if of_all[1] else float(of_all[0])
    return worst if each else None


def measure_executors(
    method: SparseEncoding,
    batch: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    compiled: bool = False,
    rounds: int = ROUNDS,
) -> dict[str, list[float]]:
    """Seconds of forward and backward passes with each executor, in turns. Leaves the method as it was.

    Args:
        method: on its device.
        batch: crops in this process.
        autocast: makes the context that a training step runs in.
        compiled: whether the run will be compiled; then both ways are, which takes its time.
        rounds: timed passes with each, after one that is not.

    Returns:
        Seconds of each pass; one infinite value where the memory of the device does not suffice.
    """
    network: Any = torch.compile(method) if compiled else method
    before = {name: value.clone() for name, value in method.named_buffers()}
    former, training, ranks = method.executor, method.training, method.ranks
    times: dict[str, list[float]] = {name: [] for name in method.executors}
    method.assign_ranks(Ranks())  # alone: a process that runs out of memory must not leave the others waiting for it
    with own_draws(device):
        try:
            views = views_of(method.train(), random_crops(method, batch, device))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            times = {name: [math.inf] for name in times}
        for _ in range(rounds + 1):
            for name in method.executors:
                if math.inf in times[name]:
                    continue
                method.use_executor(name)
                try:
                    times[name].append(_step(network, views, device, autocast))
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    times[name].append(math.inf)
                method.zero_grad(set_to_none=True)
                if device.type == "cuda" and math.inf in times[name]:
                    torch.cuda.empty_cache()  # the other way needs what is left of this one
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # a dry run tells the memory of the way that was chosen
    method.executor = former
    method.assign_ranks(ranks)
    method.train(training)
    with torch.no_grad():
        for key, value in method.named_buffers():
            value.copy_(before[key])
    return {name: [math.inf] if math.inf in values else values[1:] for name, values in times.items()}


def disagreement(
    method: SparseEncoding, device: torch.device, autocast: Callable[[], AbstractContextManager], crops: int
) -> float:
    """How far the two ways are apart on this device: the relative difference of the loss and of the gradient's norm.

    Both are exact but for rounding wherever they have been tested; here it is asked on the device and in the precision of
    the run. Leaves nothing behind, being done on a copy of the method.
    """
    answers = []
    with own_draws(device):
        trial = copied(method)
        views = views_of(trial, random_crops(trial, crops, device))
        for name in trial.executors:
            torch.manual_seed(0)  # dropout draws alike
            trial.use_executor(name)
            trial.zero_grad(set_to_none=True)
            with autocast():
                total = trial(views).total
            total.backward()
            norms = [p.grad.double().norm() for p in trial.parameters() if p.grad is not None]
            answers.append((float(total.detach()), float(torch.stack(norms).norm())))
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in zip(*answers, strict=True))


def _step(network: Any, views: Any, device: torch.device, autocast: Callable[[], AbstractContextManager]) -> float:
    _wait(device)
    begin = time.perf_counter()
    with autocast():
        total = network(views).total
    total.backward()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
