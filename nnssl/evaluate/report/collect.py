"""What a study's folder holds, as tables of draws and cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.errors import NnsslError
from nnssl.evaluate.metrics import METRICS
from nnssl.evaluate.study.cells import Cell, grid, record_of, state_of
from nnssl.evaluate.study.spec import StudyConfig, parse_study
from nnssl.files import read_json


@dataclass(frozen=True)
class Curve:
    """A learning curve: metric of whole validation cases after so many steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    Attributes:
        cell: which.
        curve: of its training.
        scores: metric -> (cases, labels); NaN = not defined.
        seconds: of its training.
        load_report: of its weights; empty from scratch.
    """

    cell: Cell
    curve: Curve
    scores: dict[str, np.ndarray]
    seconds: float
    load_report: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study as far as it has come.

    Attributes:
        folder: of the study.
        config: what was asked for.
        facts: content of study.json.
        labels: names.
        results: finished cells.
        failed: cells that failed, with the reason.
        missing: cells that are not finished.
    """

    folder: Path
    config: StudyConfig
    facts: dict[str, Any]
    labels: tuple[str, ...]
    results: dict[Cell, CellResult] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)
    missing: tuple[Cell, ...] = ()

    @property
    def inits(self) -> list[str]:
        """Names, the control first."""
        return sorted(self.config.inits, key=lambda name: name != self.config.control)

    def paired(self, init: str, count: int) -> list[tuple[CellResult, CellResult]]:
        """Cells of an initialisation beside the control's of the same draw; draws that lack one of them are left out."""
        pairs = []
        for seed in self.config.seeds:
            a, b = self.results.get(Cell(init, count, seed)), self.results.get(Cell(self.config.control, count, seed))
            if a is not None and b is not None:
                pairs.append((a, b))
        return pairs

    def of(self, init: str, count: int) -> list[CellResult]:
        """Finished cells of an initialisation, in the order of the draws."""
        cells = (Cell(init, count, seed) for seed in self.config.seeds)
        return [self.results[c] for c in cells if c in self.results]


def read_results(folder: Path) -> Study:
    """Read a study's folder, finished or not.

    Raises:
        NnsslError: it holds no study, or none of its cells has finished.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise NnsslError(f"{folder} holds no study: give the folder that `nnssl_study run -o` wrote")
    facts = read_json(path)
    config = parse_study(facts["study"], str(path))
    cells = grid(config)
    states = {cell: state_of(cell.folder(folder)) for cell in cells}
    done = [cell for cell, state in states.items() if state == "done"]
    if not done:
        failed = sum(state == "failed" for state in states.values())
        raise NnsslError(
            f"no training of {folder} has finished yet ({failed} of {len(cells)} failed): `nnssl_study run` goes on with it"
        )
    labels = _labels(done[0].folder(folder))
    return Study(
        folder,
        config,
        facts,
        labels,
        {cell: _read_cell(cell, folder, config.test, labels) for cell in done},
        {c: str(record_of(c.folder(folder)).get("reason", "")) for c, state in states.items() if state == "failed"},
        tuple(cell for cell, state in states.items() if state in ("waiting", "running")),
    )


def _labels(folder: Path) -> tuple[str, ...]:
    with (folder / "test.csv").open(newline="", encoding="utf-8") as file:
        return tuple(dict.fromkeys(row["label"] for row in csv.DictReader(file)))


def _read_cell(cell: Cell, folder: Path, cases: Sequence[str], labels: Sequence[str]) -> CellResult:
    where = cell.folder(folder)
    row_of, column_of = {c: i for i, c in enumerate(cases)}, {name: i for i, name in enumerate(labels)}
    scores = {metric: np.full((len(cases), len(labels)), np.nan) for metric in METRICS}
    with (where / "test.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for metric in METRICS:
                scores[metric][row_of[row["case"]], column_of[row["label"]]] = float(row[metric] or "nan")
    report = where / "load_report.json"
    return CellResult(
        cell,
        read_curve(where / "curve.csv"),
        scores,
        float(record_of(where).get("train_seconds", math.nan)),
        read_json(report) if report.is_file() else {},
    )


def read_curve(path: Path) -> Curve:
    """Steps and mean Dice of a learning curve."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(r["step"]), float(r["dice"] or 0)) for r in csv.DictReader(file)]
    return Curve(tuple(s for s, _ in rows), tuple(v for _, v in rows))
