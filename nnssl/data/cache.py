"""Unpacked cases in memory, shared by the reading processes of a run: a crop is then a copy, without unpacking its chunks.

What is read does not change. A case is unpacked when a crop of it is read for the first time, by whichever process reads it.
"""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.memory import usable_memory
from nnssl.data.pool import Pool

SHARE = 0.25
"""Of the free memory, which `auto` may take."""
TYPES: tuple[Any, ...] = (None, np.float16, np.float32)
"""What is noted of a case: not there yet, or the type that it is stored in."""


@dataclass(frozen=True)
class _Slot:
    number: int
    begin: int
    room: int
    shape: tuple[int, ...]


class CaseCache:
    """Room for the cases of a pool, in their order, up to a limit; the rest is read from its files as ever.

    The room is memory of the system that child processes made by fork share. It is taken page by page as it is filled.

    Args:
        pool: the cases.
        channels: of their images.
        limit: bytes.
    """

    def __init__(self, pool: Pool, channels: int, limit: int) -> None:
        self._slots: dict[Path, _Slot] = {}
        begin = 0
        for number, size in enumerate(stored_bytes(pool, channels)):
            if begin + size > limit:
                break
            shape = (channels, *pool.cases[number].shape)
            self._slots[pool.image_path(number)] = _Slot(number, begin, size, shape)
            begin += size
        self.size = begin
        self._room = mmap.mmap(-1, max(begin, 1))
        self._types = mmap.mmap(-1, max(len(self._slots), 1))
        self._lock = multiprocessing.get_context("fork").Lock()

    def __len__(self) -> int:
        return len(self._slots)

    def array(self, path: Path, stored: Any) -> Any:
        """The case as an array (C, Z, Y, X): from memory, put there first if need be, or `stored` if it has no room.

        Args:
            path: of its image.
            stored: the opened file, which unpacks what is asked of it.
        """
        slot = self._slots.get(path)
        if slot is None:
            return stored
        with self._lock:  # also makes what another process has written visible
            kind = self._types[slot.number]
        if not kind:
            fits = prod(stored.shape) * stored.dtype.itemsize <= slot.room
            if stored.dtype not in TYPES[1:] or tuple(stored.shape) != slot.shape or not fits:
                return stored  # not as the pool's index says
            kind = TYPES.index(stored.dtype.type)
            self._view(slot, TYPES[kind])[...] = stored[...]  # two processes may do this at once, with the same numbers
            with self._lock:
                self._types[slot.number] = kind
        return self._view(slot, TYPES[kind])

    def holds(self, path: Path) -> bool:
        """Whether the image of a case lies here already. What another process is just adding may be missed."""
        slot = self._slots.get(path)
        return slot is not None and self._types[slot.number] != 0

    def _view(self, slot: _Slot, dtype: Any) -> np.ndarray:
        return np.frombuffer(self._room, dtype, prod(slot.shape), slot.begin).reshape(slot.shape)


def stored_bytes(pool: Pool, channels: int) -> list[int]:
    """Bytes of each case as an array: in float32 with labels, in float16 (unless that cannot hold it) without."""
    return [channels * prod(c.shape) * (4 if c.labelled else 2) for c in pool.cases]


def make_cache(
    setting: str | float, pool: Pool, channels: int, crop: Sequence[int], crops: int, processes: int
) -> tuple[CaseCache | None, list[str]]:
    """The cache that a run's setting asks for.

    `auto` makes one if the whole pool takes no more than `SHARE` of the free memory, and if so many crops will be read that
    unpacking whole cases is less work than unpacking every crop.

    Args:
        setting: `auto`, `none`, or GiB for all processes of this machine.
        pool: of the training.
        channels: of its images.
        crop: voxels per axis that are read.
        crops: how many are read in this run.
        processes: that train on this machine; each has a cache of its own.

    Returns:
        The cache or None, and a line for the log.
    """
    if setting == "none" or "fork" not in multiprocessing.get_all_start_methods():
        return None, []
    wanted = sum(stored_bytes(pool, channels))
    if setting == "auto":
        free = free_memory()
        if wanted * processes > SHARE * free:
            return None, []
        if crops * prod(crop) < 2 * sum(prod(c.shape) for c in pool.cases):
            return None, []
        limit = wanted
    else:
        limit = int(float(setting) * 2**30) // processes
    cache = CaseCache(pool, channels, limit)
    size = f"{cache.size / 2**30:.2f} GiB"
    return cache, [f"cache: {len(cache)} of {len(pool)} cases are kept unpacked in memory once they were read, {size}"]


def free_memory() -> int:
    """Bytes that may still be taken on this machine or in its container, as far as the system tells."""
    free = usable_memory()
    known = Path("/proc/meminfo")
    if known.is_file():
        lines = dict(line.split(":", 1) for line in known.read_text(encoding="ascii").splitlines())
        if "MemAvailable" in lines:
            free = min(free, int(lines["MemAvailable"].split()[0]) * 1024)
    used = Path("/sys/fs/cgroup/memory.current")
    limit = Path("/sys/fs/cgroup/memory.max")
    if used.is_file() and limit.is_file() and limit.read_text(encoding="ascii").strip().isdecimal():
        free = min(free, int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii")))
    return max(free, 0)
