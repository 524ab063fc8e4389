"""Tables of what is known of cases or patients: one CSV file, one column per target."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nnssl.errors import NnsslError, did_you_mean, shortened
from nnssl.files import read_rows

log = logging.getLogger(__name__)

Kind = Literal["classes", "regression"]
MOST_CLASSES = 10
"""A column of numbers with more different values than these is taken for a quantity."""
CASE_COLUMNS = ("case", "name", "id")
MISSING = ("", "na", "nan", "null", "?")
"""Values that are none."""
MISSING_NUMBER = ("none", "unknown")
"""Values that are none in a column of numbers; elsewhere they may be the names of classes."""


@dataclass(frozen=True)
class TargetColumn:
    """A target of the cases that have one.

    Attributes:
        name: of the column.
        kind: classes or a quantity.
        cases: names, those with a value.
        values: texts for classes, floats for a quantity.
        groups: of each case; cases of one group stay on one side of every split.
        left_out: cases without a value.
    """

    name: str
    kind: Kind
    cases: tuple[str, ...]
    values: np.ndarray
    groups: tuple[str, ...]
    left_out: tuple[str, ...]


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        NnsslError: missing, empty, or no table.
    """
    _, rows = read_rows(path, by_hand=True)
    if not rows:
        raise NnsslError(f"{path} holds no rows below its header")
    return rows


def read_target(
    path: Path, target: str, cases: Sequence[str], subjects: Mapping[str, str], group: str | None = None
) -> TargetColumn:
    """A target column for a dataset's cases.

    Args:
        path: CSV file with a column `case` (or `name`, `id`), or with the group column alone when rows are patients.
        target: column name; `name:regression` or `name:classes` says what it is.
        cases: names in the dataset.
        subjects: case -> patient, where known.
        group: column with the patient; default: `subjects`, else every case by itself.

    Raises:
        NnsslError: no such column, no case in common, a case twice with different values, or nothing to learn.
    """
    rows = read_table(path)
    name, _, said = target.partition(":")
    if said not in ("", "regression", "classes"):
        raise NnsslError(f"--target {target}: after the colon stands regression or classes")
    columns = list(rows[0])
    for wanted in (name, *([group] if group else [])):
        if wanted not in columns:
            raise NnsslError(
                f"{path} has no column '{wanted}'.{did_you_mean(wanted, columns)} It has: {shortened(columns, 50)}"
            )
    by_case = _by_case(path, rows, name, cases, subjects, group)
    known = _with_value({case: value for case, (value, _) in by_case.items()})
    if len(known) < 4:
        raise NnsslError(f"{path}: only {len(known)} of {len(cases)} cases have a value of '{name}'")
    kind = _kind(list(known.values()), said, name)
    chosen = tuple(case for case in cases if case in known)
    texts = [known[c] for c in chosen]
    values = np.array([_number(t, name) for t in texts]) if kind == "regression" else np.array(texts)
    if len(np.unique(values)) < 2:
        raise NnsslError(
            f"{path}: all cases have the same value of '{name}' ({texts[0]}): nothing can be read from that"
        )
    groups = tuple(by_case[c][1] or subjects.get(c) or c for c in chosen)
    left_out = tuple(c for c in cases if c not in known)
    if left_out:
        log.info("%d of %d cases have no value of '%s': %s", len(left_out), len(cases), name, shortened(left_out))
    return TargetColumn(name, kind, chosen, values, groups, left_out)


def join_twins(target: TargetColumn, digests: Mapping[str, str]) -> tuple[TargetColumn, list[tuple[str, str]]]:
    """Make one group of the groups of cases that have the same voxels under two names.

    Args:
        target: values and groups of cases.
        digests: case -> digest of its voxels, where known.

    Returns:
        The target, and pairs (case, its twin seen first) of different groups.
    """
    name = {group: group for group in target.groups}
    first: dict[str, int] = {}
    twins = []
    for i, case in enumerate(target.cases):
        if case not in digests:
            continue
        other = first.setdefault(digests[case], i)
        if target.groups[other] != target.groups[i]:
            twins.append((case, target.cases[other]))
            kept, gone = name[target.groups[other]], name[target.groups[i]]
            name = {group: kept if now == gone else now for group, now in name.items()}
    return replace(target, groups=tuple(name[group] for group in target.groups)), twins


def _by_case(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    target: str,
    cases: Sequence[str],
    subjects: Mapping[str, str],
    group: str | None,
) -> dict[str, tuple[str, str]]:
    """Case -> its value and its group, joined by case or, where rows are patients, by patient."""
    column = next((c for c in CASE_COLUMNS if c in rows[0]), None)
    patient = group or next((c for c in ("patient", "subject") if c in rows[0]), None)
    known = set(cases)
    found: dict[str, tuple[str, str]] = {}
    if column is not None and any(row[column] in known for row in rows):
        for row in rows:
            case, value = row[column], (row[target], row.get(group, "") if group else "")
            if case in known and found.setdefault(case, value) != value:
                raise NnsslError(f"{path}: {case} stands twice with different values")
        return found
    if patient is not None:
        of_patient: dict[str, str] = {}
        for row in rows:
            if of_patient.setdefault(row[patient], row[target]) != row[target]:
                raise NnsslError(f"{path}: {patient} {row[patient]} stands twice with different values of '{target}'")
        found = {c: (of_patient[subjects[c]], subjects[c]) for c in cases if subjects.get(c) in of_patient}
    if not found:
        have = ", ".join(row.get(column or "", "") for row in rows[:3]) if column else "no column 'case'"
        raise NnsslError(
            f"{path} and the dataset have no case in common: the table has {have}; the dataset {', '.join(cases[:3])}"
        )
    return found


def _with_value(values: Mapping[str, str]) -> dict[str, str]:
    """Case -> value, of those that have one."""
    known = {case: value for case, value in values.items() if value.casefold() not in MISSING}
    others = {case: value for case, value in known.items() if value.casefold() not in MISSING_NUMBER}
    return others if _numbers(others.values()) else known


def _numbers(values: Iterable[str]) -> set[float] | None:
    """The different numbers of a column, None where some value is no number."""
    try:
        return {float(v) for v in values}
    except ValueError:
        return None


def _kind(values: Sequence[str], said: str, name: str) -> Kind:
    if said:
        return said  # type: ignore[return-value]
    numbers = _numbers(values)
    return "regression" if numbers is not None and len(numbers) > MOST_CLASSES else "classes"


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise NnsslError(f"'{name}' is to be a quantity, and '{text}' is no number: --target {name}:classes") from None
    if not math.isfinite(value):
        raise NnsslError(f"'{name}' holds {text}: leave the field empty where the value is not known")
    return value
