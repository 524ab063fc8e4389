"""A finished cell of a classification study: its answers to the test images, scored as they are and resampled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnssl.errors import NnsslError
from nnssl.evaluate.classify import resampled
from nnssl.evaluate.labels import Kind
from nnssl.files import read_rows

RESAMPLES = 1000
PROBABILITY = "p_"
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Answers:
    """Answers of a cell.

    Attributes:
        kind: of the target.
        known: classes in order; empty for a quantity.
        values: (cases,) targets.
        groups: of the cases.
        answers: (cases, classes) probabilities, or (cases,) quantities.
    """

    kind: Kind
    known: np.ndarray
    values: np.ndarray
    groups: tuple[str, ...]
    answers: np.ndarray


def read_answers(path: Path, cases: Sequence[str]) -> Answers:
    """A cell's predictions.csv.

    Raises:
        NnsslError: it lacks a test case.
    """
    names, lines = read_rows(path, ("case", "group", "target", "prediction"))
    rows = {row["case"]: row for row in lines}
    columns = [c for c in names if c.startswith(PROBABILITY)]
    missing = [case for case in cases if case not in rows]
    if missing:
        raise NnsslError(f"{path} lacks {missing[0]}: remove the folder and run the study again")
    ordered = [rows[case] for case in cases]
    groups = tuple(row["group"] for row in ordered)
    if not columns:
        values = np.array([float(row["target"]) for row in ordered])
        answers = np.array([float(row["prediction"]) for row in ordered])
        return Answers("regression", np.array([]), values, groups, answers)
    known = np.array([c.removeprefix(PROBABILITY) for c in columns])
    values = np.array([row["target"] for row in ordered])
    answers = np.array([[float(row[c]) for c in columns] for row in ordered])
    return Answers("classes", known, values, groups, answers)


def aligned(found: Mapping[Key, Answers]) -> dict[Key, Answers]:
    """Answers of several cells with the same columns: all classes that any of them knows.

    A class that no test image shows may be in one draw and not in another; a cell that does not know it gives it no
    probability.
    """
    known = np.unique(np.concatenate([cell.known for cell in found.values()])) if found else np.array([])
    same = {}
    for key, cell in found.items():
        answers = cell.answers
        if cell.kind == "classes":
            answers = np.zeros((len(cell.values), len(known)))
            answers[:, np.searchsorted(known, cell.known)] = cell.answers
        same[key] = replace(cell, known=known, answers=answers)
    return same


def scored(found: Answers) -> tuple[dict[str, float], dict[str, np.ndarray], np.ndarray]:
    """Scores of the answers; the same under resamples of patients, alike for every cell; and recall per class."""
    whole = np.ones((1, len(found.values)))
    plain = resampled.scores(found.values, found.answers, found.kind, found.known, whole)
    weights = resampled.resamples(found.groups, RESAMPLES)
    drawn = resampled.scores(found.values, found.answers, found.kind, found.known, weights)
    classes = found.kind == "classes"
    recalls = resampled.recalls(found.values, found.answers, found.known) if classes else np.array([])
    return {k: float(v[0]) for k, v in plain.items()}, drawn, recalls
