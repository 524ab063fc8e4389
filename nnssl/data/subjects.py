"""Which cases show the same person: frames of one cine scan, sessions, repeated scans."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnssl.errors import NnsslError, shortened
from nnssl.files import read_rows

TABLES = ("subjects.csv", "cases.csv")
COLUMNS = ("subject", "patient")
NAMES = (re.compile(r"^(sub-[A-Za-z0-9]+)_"), re.compile(r"^(patient\d+)_frame\d+$"))
"""Names that say it themselves: BIDS, and ACDC's cine frames."""


def read_subjects(raw_dataset: Path, cases: Iterable[str]) -> dict[str, str]:
    """Case name -> subject.

    From `subjects.csv` (or `cases.csv`) in the raw dataset's folder, with a column `case` and a column `subject` or
    `patient`; without one, from the names themselves where they follow BIDS (`sub-01_ses-1_T1w`) or ACDC
    (`patient001_frame12`). Cases of which nothing is known are left out.

    Raises:
        NnsslError: the table lacks a column.
    """
    names = list(cases)
    for table in TABLES:
        path = raw_dataset / table
        if path.is_file():
            known = _read_table(path, required=table == TABLES[0])
            if known:
                return {name: known[name] for name in names if known.get(name)}
    found = {}
    for name in names:
        match = next((m for m in (pattern.match(name) for pattern in NAMES) if m), None)
        if match:
            found[name] = match.group(1)
    return found


def scans_of_subjects(subjects: Sequence[str]) -> dict[int, list[int]]:
    """Position of each case that shares its subject with others -> positions of all the subject's cases, its own included.

    Empty strings are unknown subjects. The cases of a subject share one list, so that this stays linear in their number.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, subject in enumerate(subjects):
        if subject:
            members[subject].append(position)
    return {i: group for group in members.values() if len(group) > 1 for i in group}


def groups(subjects: Sequence[str]) -> list[int]:
    """For each case the position of its subject's first case; a case of an unknown subject is alone."""
    first: dict[str, int] = {}
    return [first.setdefault(subject, i) if subject else i for i, subject in enumerate(subjects)]


def persons(subjects: Sequence[str], digests: Sequence[str]) -> list[int]:
    """For each scan the position of its person's first scan, as far as subjects and voxels tell.

    Scans of one subject are one person's, and so are scans with the same voxels, whatever their subjects are called; both
    hold along chains. Empty strings are unknown.
    """
    leader = list(range(len(subjects)))
    first: dict[tuple[str, str], int] = {}

    def lead(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    for i, (subject, digest) in enumerate(zip(subjects, digests)):
        for kind, value in (("subject", subject), ("voxels", digest)):
            if value:
                a, b = lead(first.setdefault((kind, value), i)), lead(i)
                leader[max(a, b)] = min(a, b)
    return [lead(i) for i in range(len(leader))]


def read_subject_table(path: Path) -> dict[str, str]:
    """Case -> subject of a `subjects.csv`, empty where a case has none.

    Raises:
        NnsslError: no readable table, or it lacks a column.
    """
    return _read_table(path, required=True)


def _read_table(path: Path, required: bool) -> dict[str, str]:
    columns, rows = read_rows(path, by_hand=True)
    column = next((c for c in COLUMNS if c in columns), None)
    if "case" not in columns or column is None:
        if required:
            raise NnsslError(f"{path} needs a column 'case' and a column 'subject', it has: {shortened(columns, 20)}")
        return {}
    return {row["case"]: row[column] for row in rows}
