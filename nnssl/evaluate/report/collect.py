"""What a study's folder holds, as tables of draws and cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.errors import NnsslError
from nnssl.evaluate.metrics import METRICS
from nnssl.evaluate.report.collect_classes import Answers, aligned, read_answers, scored
from nnssl.evaluate.report.measures import Measures, measures_of, measures_of_segmentation
from nnssl.evaluate.study.cells import Cell, grid, record_of, state_of
from nnssl.evaluate.study.spec import StudyConfig, recorded_study
from nnssl.files import read_json, read_rows
from nnssl.transfer.loading import no_surprise


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
        curve: of its training; without points where nothing was trained step by step.
        means: metric -> value over all test cases.
        scores: metric -> (cases, labels) of a segmentation; NaN = not defined.
        resampled: metric -> (resamples,) of a classification, under the same resamples of test patients in every cell.
        patients: of the test, which were resampled.
        recalls: of each class of a classification.
        seconds: of its training.
        load_report: of its weights; empty from scratch.
        made_with: device and versions of packages, of each machine that had a part in it; empty if that was not recorded.
    """

    cell: Cell
    curve: Curve
    means: dict[str, float]
    scores: dict[str, np.ndarray]
    seconds: float
    load_report: dict[str, Any]
    resampled: dict[str, np.ndarray] = field(default_factory=dict)
    patients: int = 0
    recalls: np.ndarray = field(default_factory=lambda: np.array([]))
    made_with: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Study:
    """A study as far as it has come.

    Attributes:
        folder: of the study.
        config: what was asked for.
        facts: content of study.json.
        labels: names; of a classification its classes.
        measures: metrics of the task.
        results: finished cells.
        failed: cells that failed, with the reason.
        missing: cells that are not finished.
    """

    folder: Path
    config: StudyConfig
    facts: dict[str, Any]
    labels: tuple[str, ...]
    measures: Measures
    results: dict[Cell, CellResult] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)
    missing: tuple[Cell, ...] = ()

    @property
    def inits(self) -> list[str]:
        """Names, the control first."""
        return sorted(self.config.inits, key=lambda name: name != self.config.control)

    @property
    def curved(self) -> bool:
        """Whether there are learning curves."""
        return any(len(c.curve.steps) > 1 for c in self.results.values())

    @property
    def unit(self) -> str:
        """What counts count."""
        return self.config.unit_name

    @property
    def made_with(self) -> dict[str, list[str]]:
        """Device and packages -> what trainings were made with, which may be several: a study moves between machines."""
        parts = [part for result in self.results.values() for part in result.made_with]
        return {
            name: sorted({p[name] for p in parts if name in p}) for name in dict.fromkeys(k for p in parts for k in p)
        }

    @property
    def on_record(self) -> int:
        """Trainings of which is known what they were made with."""
        return sum(bool(result.made_with) for result in self.results.values())

    def paired(self, init: str, count: int, other: str | None = None) -> list[tuple[CellResult, CellResult]]:
        """Cells of one initialisation beside another one (the control) of the same draw; draws that lack one are out."""
        pairs = []
        for seed in self.config.seeds:
            cells = (Cell(name, count, seed) for name in (init, other or self.config.control))
            a, b = (self.results.get(cell) for cell in cells)
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
    config = recorded_study(path)
    with no_surprise(str(folder)):  # files of a study that somebody has edited, or a disk has damaged
        return _read(folder, config, read_json(path))


def _read(folder: Path, config: StudyConfig, facts: dict[str, Any]) -> Study:
    cells = grid(config)
    states = {cell: state_of(cell.folder(folder)) for cell in cells}
    done = [cell for cell, state in states.items() if state == "done"]
    if not done:
        failed = sum(state == "failed" for state in states.values())
        raise NnsslError(
            f"no training of {folder} has finished yet ({failed} of {len(cells)} failed): `nnssl_study run` goes on with it"
        )
    if len(facts.get("test_patients", config.test)) != len(config.test):
        raise NnsslError(f"{folder / 'study.json'} is damaged: test_patients are not those of the study's test cases")
    answers: dict[Cell, Answers] = {}
    if config.task == "classification":
        read = {cell: read_answers(cell.folder(folder) / "predictions.csv", config.test) for cell in done}
        answers = aligned(read)
    labels, measures = _labels(done[0].folder(folder), config, answers.get(done[0]))
    return Study(
        folder,
        config,
        facts,
        labels,
        measures,
        {cell: _read_cell(cell, folder, config, labels, measures, answers.get(cell)) for cell in done},
        {c: str(record_of(c.folder(folder)).get("reason", "")) for c, state in states.items() if state == "failed"},
        tuple(cell for cell, state in states.items() if state in ("waiting", "running")),
    )


def _labels(folder: Path, config: StudyConfig, found: Answers | None) -> tuple[tuple[str, ...], Measures]:
    """Names of labels or classes, and what is measured."""
    if found is not None:
        return tuple(str(c) for c in found.known), measures_of(found.kind, len(found.known))
    _, rows = read_rows(folder / "test.csv", ("label",))
    return tuple(dict.fromkeys(row["label"] for row in rows)), measures_of_segmentation(config.tolerance_mm)


def _read_cell(
    cell: Cell, folder: Path, config: StudyConfig, labels: Sequence[str], measures: Measures, found: Answers | None
) -> CellResult:
    where = cell.folder(folder)
    report, curve, record = where / "load_report.json", where / "curve.csv", record_of(where)
    common = {
        "cell": cell,
        "curve": read_curve(curve, measures.curve) if curve.is_file() else Curve((), ()),
        "seconds": float(record.get("train_seconds", math.nan)),
        "load_report": read_json(report) if report.is_file() else {},
        "made_with": tuple({str(k): str(v) for k, v in part.items()} for part in record.get("made_with", [])),
    }
    if found is not None:
        means, drawn, recalls = scored(found)
        return CellResult(
            **common, means=means, scores={}, resampled=drawn, patients=len(set(found.groups)), recalls=recalls
        )
    scores = _read_scores(where / "test.csv", config.test, labels)
    return CellResult(**common, means={m: mean(v) for m, v in scores.items()}, scores=scores)


def mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN if nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _read_scores(path: Path, cases: Sequence[str], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Metric -> (cases, labels)."""
    row_of, column_of = {c: i for i, c in enumerate(cases)}, {name: i for i, name in enumerate(labels)}
    scores = {metric: np.full((len(cases), len(labels)), np.nan) for metric in METRICS}
    for row in read_rows(path, ("case", "label", *METRICS))[1]:
        for metric in METRICS:
            scores[metric][row_of[row["case"]], column_of[row["label"]]] = float(row[metric] or "nan")
    return scores


def read_curve(path: Path, column: str = "dice") -> Curve:
    """Steps and the mean score of a learning curve."""
    rows = [(int(r["step"]), float(r[column] or 0)) for r in read_rows(path, ("step", column))[1]]
    return Curve(tuple(s for s, _ in rows), tuple(v for _, v in rows))
