"""The tables beside an ACDC dataset: cases, subjects, and folds by patient."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.importing.acdc_layout import Info, Patient
from nnssl.data.importing.acdc_patient import Frame, case_name
from nnssl.files import atomic_path

CASES = ("case", "patient", "set", "frame", "phase", "group", "height", "weight", "nb_frame", "spacing")
FOLDS = 5


def case_rows(patient: Patient, frames: Iterable[Frame]) -> list[dict[str, str]]:
    """Rows of cases.csv; what is not known stays empty. `spacing` is Z x Y x X in mm, `height` cm, `weight` kg."""
    info = patient.info or Info()
    return [
        {
            "case": case_name(patient.name, frame.number),
            "patient": patient.name,
            "set": "testing" if patient.testing else "training",
            "frame": str(frame.number),
            "phase": info.phase(frame.number),
            "group": info.group,
            "height": "" if info.height is None else f"{info.height:g}",
            "weight": "" if info.weight is None else f"{info.weight:g}",
            "nb_frame": "" if info.frames is None else str(info.frames),
            "spacing": "x".join(f"{s:g}" for s in frame.spacing),
        }
        for frame in frames
    ]


def write_table(rows: Sequence[dict[str, str]], columns: Sequence[str], path: Path) -> None:
    """Write a CSV file, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def deal_patients(rows: Sequence[dict[str, str]], seed: int = 12345) -> dict[str, int]:
    """Patient -> fold: five folds with all frames of a patient in one, groups spread evenly.

    The patients of each group are shuffled and dealt out in turn, going on where the group before ended, so that folds
    differ by one patient at most, in all and per group; also where a group has fewer patients than there are folds,
    which scikit-learn's stratified splitters refuse. With fewer patients than folds there are as many folds as patients.

    Args:
        rows: of cases: `patient`, `group`.
        seed: of the shuffling.
    """
    group = {row["patient"]: row["group"] for row in rows}
    rng = np.random.default_rng(seed)
    order: list[str] = []
    for name in sorted(set(group.values())):
        members = sorted(p for p, g in group.items() if g == name)
        order += [members[i] for i in rng.permutation(len(members))]
    return {patient: i % min(FOLDS, len(order)) for i, patient in enumerate(order)}


def splits(rows: Sequence[dict[str, str]], fold: dict[str, int]) -> list[dict[str, list[str]]]:
    """nnU-Net's `splits_final.json`; patients without a fold always train.

    Args:
        rows: of cases: `case`, `patient`.
        fold: patient -> fold.
    """
    return [
        {
            "train": sorted(row["case"] for row in rows if fold.get(row["patient"]) != k),
            "val": sorted(row["case"] for row in rows if fold.get(row["patient"]) == k),
        }
        for k in range(max(fold.values()) + 1)
    ]


def acdc_report(
    patients: Sequence[Patient],
    frames: dict[str, list[Frame]],
    left_out: Sequence[tuple[str, str]],
    copies: Sequence[tuple[str, str]],
    notes: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """The content of import_report.json, in the form of `nnssl.data.importing.report`; testing cases stand apart.

    Args:
        patients: all of them.
        frames: patient -> frames in this dataset.
        left_out: (case or patient, reason).
        copies: (case, case with the same voxels).
        notes: (case or patient, text).
    """
    cases: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for patient in patients:
        for frame in frames.get(patient.name, []):
            case = case_name(patient.name, frame.number)
            cases[patient.testing][case] = {
                "kind": "ACDC",
                "shape": list(frame.shape),
                "spacing": [round(s, 6) for s in frame.spacing],
                "orientation": frame.orientation,
                "dtype": frame.dtype,
                "linked": False,
                "digest": frame.digest,
                "notes": [text for where, text in notes if where == case],
            }
    return {
        "nnssl_import": 1,
        "cases": cases[False],
        "testing_cases": cases[True],
        "duplicates": [{"what": case, "of": of} for case, of in copies],
        "left_out": [{"what": where, "kind": "ACDC", "reason": reason} for where, reason in sorted(left_out)],
        "other_files": {},
        "notes": [f"{where}: {text}" for where, text in sorted(notes)],
    }
