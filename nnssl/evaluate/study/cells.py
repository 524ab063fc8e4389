"""The grid of a study and the folders of its cells: what is done, what runs, what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnssl.data import claims
from nnssl.data.claims import Claim
from nnssl.errors import NnsslError
from nnssl.evaluate.study.spec import StudyConfig
from nnssl.files import read_json, write_json

State = Literal["waiting", "running", "done", "failed"]


RECORD = {"state": str, "attempts": int, "deaths": int, "made_with": list}
"""Entries of a record that steer a study."""


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
    """A cell's `cell.json`, or an empty record.

    Raises:
        NnsslError: the file is damaged.
    """
    path = folder / "cell.json"
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(content.get(k, kind()), kind) for k, kind in RECORD.items()):
        raise NnsslError(f"{path} is damaged: it is no record of a training. Remove its folder and run the study again")
    return content


def state_of(folder: Path) -> State:
    """What a cell's folder says; a running cell whose process died waits again."""
    known = record_of(folder).get("state", "waiting")
    if known in ("done", "failed"):
        return known
    return "running" if claims.is_claimed(folder / "lock") else "waiting"


def deaths_of(record: Mapping[str, Any]) -> int:
    """How often a cell's process died over it: nobody holds a cell whose record says that it runs."""
    return int(record.get("deaths", 0)) + (record.get("state") == "running")


def write_record(folder: Path, **values: Any) -> None:
    """Change entries of a cell's record."""
    write_json({**record_of(folder), **values}, folder / "cell.json")


@contextmanager
def claim(folder: Path, on_loss: Callable[[], None] | None = None) -> Iterator[Claim]:
    """Take a cell for this process; yields something false where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with claims.claim(folder / "lock", on_loss) as mine:
        yield mine
