"""The grid of a study and the folders of its cells: what is done, what runs, what failed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnssl.evaluate.study.spec import StudyConfig
from nnssl.files import read_json, write_json

State = Literal["waiting", "running", "done", "failed"]
BEAT_SECONDS = 30
DEAD_AFTER_SECONDS = 300
"""A lock that was not renewed for so long belongs to a process that died, possibly on another machine."""


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    init: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        """Short, unique in the study; part of nnU-Net's plans name."""
        return f"{self.init}_n{self.count}_seed{self.seed}"

    def folder(self, study: Path) -> Path:
        """Where its files lie."""
        return study / "cells" / self.init / f"n{self.count}" / f"seed{self.seed}"


def grid(study: StudyConfig) -> list[Cell]:
    """All cells, the most informative first: one draw of everything before the next draw, the control first."""
    inits = sorted(study.inits, key=lambda name: name != study.control)
    return [Cell(init, count, seed) for seed in study.seeds for count in study.counts for init in inits]


def record_of(folder: Path) -> dict[str, Any]:
    """A cell's `cell.json`, or an empty record."""
    path = folder / "cell.json"
    return read_json(path) if path.is_file() else {}


def state_of(folder: Path) -> State:
    """What a cell's folder says; a running cell whose process died waits again."""
    known = record_of(folder).get("state", "waiting")
    if known in ("done", "failed"):
        return known
    return "running" if _alive(folder / "lock") else "waiting"


def write_record(folder: Path, **values: Any) -> None:
    """Change entries of a cell's record."""
    write_json({**record_of(folder), **values}, folder / "cell.json")


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Take a cell for this process; yields False where another process has it.

    The lock is a file that only one process can create, also on a network folder, and that its owner touches while it
    works. A lock that went stale is taken over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    if not _take(lock):
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, over), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        lock.unlink(missing_ok=True)


def _take(lock: Path) -> bool:
    if lock.exists() and not _alive(lock):
        # only one of several that see the same stale lock may rename it
        stale = lock.with_name(f"lock.{socket.gethostname()}.{os.getpid()}")
        try:
            lock.rename(stale)
        except FileNotFoundError:
            return False
        stale.unlink()
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
    return True


def _beat(lock: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        if not lock.exists():
            return
        lock.touch()


def _alive(lock: Path) -> bool:
    """Whether the owner of a lock still works."""
    try:
        age = time.time() - lock.stat().st_mtime
        owner = lock.read_text().split()
    except FileNotFoundError:
        return False
    if len(owner) == 2 and owner[0] == socket.gethostname() and not _is_process(int(owner[1])):
        return False
    return age < DEAD_AFTER_SECONDS


def _is_process(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True
