"""How much memory a run will need, measured on one and two crops before it starts."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from nnssl.trainers.device import without_search
from nnssl.trainers.process_group import processes_here
from nnssl.trainers.trial import copied, out_of_memory, own_draws, random_crops, views_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnssl.data.memory import usable_memory

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer

STATES = {"sgd": 1, "lars": 1}
"""Tensors that an optimiser keeps per weight; two for all others."""
GIB = 2**30


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that are made while it is active and still in use: works on every device.

    Attributes:
        live: bytes now.
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage(), before)
        self.peak = max(self.peak, self.live)
        return result

    def _note(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in before:
            return
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def memory_lines(trainer: nnsslTrainer, batch: int) -> list[str]:
    """The estimate as a line for the log, and a warning if there is less memory than that.

    Args:
        trainer: its method is on the device, with its executor and checkpointing settled.
        batch: crops at once in this process.
    """
    fixed, step = fixed_bytes(trainer), step_bytes(trainer, batch)
    if step is None:
        return [f"WARNING: one crop alone does not fit into the memory of {trainer.device}: {advice(trainer)}"]
    total, there = sum(fixed.values()) + step, memory_of(trainer.device, trainer.world_size)
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in fixed.items())
    lines = [
        f"memory: about {total / GIB:.2f} GiB ({parts}, activations of {batch} crop(s) {step / GIB:.2f}, measured) of "
        f"{there / GIB:.1f}"
    ]
    if total > 0.95 * there:
        lines.append(f"WARNING: this may not fit into memory: {advice(trainer)}")
    return lines


def fixed_bytes(trainer: nnsslTrainer) -> dict[str, int]:
    """What does not depend on the batch, in bytes."""
    method = trainer.method
    learned = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    others = sum(p.numel() * p.element_size() for p in method.parameters() if not p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in method.buffers())
    optimiser = STATES.get(trainer.run.optimizer or "", 2) * learned
    parts = {
        "weights": learned,
        "gradients": learned,
        "optimiser": optimiser,
        "not trained": others,
        "buffers": buffers,
        "exchange of gradients": learned if trainer.is_ddp else 0,  # the buckets of DDP
    }
    return {name: size for name, size in parts.items() if size or name == "weights"}


def step_bytes(trainer: nnsslTrainer, batch: int) -> int | None:
    """What a forward and backward pass takes beyond the gradients of the weights, which are counted by themselves.

    The peak grows by the same amount with every crop, so two measurements tell it for any batch. It mostly comes before
    there are many gradients, so what it leaves for them is not counted twice; only with `accumulate` all are there from the
    second part on. None if not even one crop fits.
    """
    one = peak_bytes(trainer, 1)
    if one is None:
        return None
    two = peak_bytes(trainer, 2) if batch > 1 else one
    peak = one + (batch - 1) * (one if two is None else max(two - one, 0))
    if trainer.run.accumulate > 1:
        return peak
    return max(peak - sum(p.numel() * p.element_size() for p in trainer.method.parameters() if p.requires_grad), 0)


def peak_bytes(trainer: nnsslTrainer, batch: int) -> int | None:
    """Most bytes at one time in a forward and backward pass, with the gradients that there are then; None if too many.

    Done on a copy of the method, so that nothing is left behind.
    """
    try:
        return _peak_bytes(trainer, batch)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return None
    finally:
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(trainer.device)


def _peak_bytes(trainer: nnsslTrainer, batch: int) -> int:
    device, live = trainer.device, LiveMemory()
    cuda = device.type == "cuda"
    with own_draws(device), without_search() if cuda else nullcontext():
        method = copied(trainer.method)
        if cuda:  # its allocator knows better, and knows what libraries take
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        with nullcontext() if cuda else live:
            crops = random_crops(method, batch, device)  # they stay in memory through the step, as in training
            views = views_of(method, crops)
            with trainer._autocast():
                total = method(views).total
            total.backward()
    return int(torch.cuda.max_memory_allocated(device) - before if cuda else live.peak)


def memory_of(device: torch.device, processes: int) -> int:
    """Bytes that one of the run's processes can have on its device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_allocated(device))
    return usable_memory() // processes_here(processes)


def advice(trainer: nnsslTrainer) -> str:
    """What to change, the cheapest first; a continued run may only change what its numbers do not depend on."""
    run, ways = trainer.run, list[str]()
    batch, free = (run.batch_size or 1) // trainer.world_size, not trainer._continuing
    if free and hasattr(trainer.method, "use_executor") and run.executor != "tiles":
        ways.append("--executor tiles")
    if free and trainer.method.crops_alone and run.accumulate < batch:
        ways.append(f"--set accumulate={min(2 * run.accumulate, batch)}")
    if not run.checkpointing:
        ways.append("--set checkpointing=true")
    if free and batch > 1:
        ways.append(f"--batch-size {max(1, batch // 2) * trainer.world_size}")
    if ways:
        return "try " + ", or ".join(ways)
    return "plan with a smaller patch (nnssl_plan_and_preprocess --size)" if free else "continue on a larger device"
