"""ACDC as published -> a labelled dataset of end-diastole and end-systole, and a pool of the training patients' cine frames.

Bernard et al. 2018, Deep learning techniques for automatic MRI cardiac multi-structures segmentation and diagnosis,
IEEE Transactions on Medical Imaging 37(11). That no frame of a testing patient is pretrained on is the protocol of
Kalapos and Gyires-Toth 2022, Self-supervised pretraining for 2D medical image segmentation, ECCV workshops.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnssl.data.folders import nnunet_folder
from nnssl.data.importing.acdc_layout import Patient, find_patients
from nnssl.data.importing.acdc_patient import LABELS, Outcome, Wish, case_name, convert_patient
from nnssl.data.importing.acdc_tables import CASES, acdc_report, case_rows, deal_patients, splits, write_table
from nnssl.data.importing.report import REPORT
from nnssl.data.parallel import run_cases
from nnssl.errors import NnsslError
from nnssl.files import write_json

log = logging.getLogger(__name__)

CITATION = "MANDATORY_CITATION.md"
REFERENCE = "Bernard et al. 2018, IEEE Transactions on Medical Imaging 37(11), doi:10.1109/TMI.2018.2837502"


@dataclass(frozen=True)
class AcdcImport:
    """What an import made.

    Attributes:
        datasets: name -> lines for the console.
        left_out: (case or patient, reason).
        copies: (frame, frame of the pool with the same voxels).
        notes: (case or patient, text).
    """

    datasets: dict[str, list[str]]
    left_out: list[tuple[str, str]]
    copies: list[tuple[str, str]]
    notes: list[tuple[str, str]]


def import_acdc(folder: Path, labelled: str | None, pool: str | None, frames: int | None, processes: int) -> AcdcImport:
    """Make one or both datasets below `nnUNet_raw`; they appear complete or not at all.

    Args:
        folder: holds `training/` and `testing/` with one folder per patient, at any of the usual depths.
        labelled: name (`Dataset027_ACDC`) of the labelled dataset; None = not wanted.
        pool: name of the unlabelled pool of cine frames of the training patients; None = not wanted.
        frames: of each cine scan, spread evenly; None = all.
        processes: worker processes.

    Raises:
        NnsslError: no patients, nothing usable, or a dataset of that number exists.
    """
    raw = nnunet_folder("nnUNet_raw", create=True)
    names = [name for name in (labelled, pool) if name is not None]
    if not names:
        raise NnsslError("--acdc: give a number for the labelled dataset, for the pool, or for both")
    for name in names:
        _check_free(raw, name)
    patients, problems = find_patients(Path(folder).expanduser())
    staging = Path(tempfile.mkdtemp(prefix=".nnssl_import_", dir=raw))
    try:
        wish = Wish(staging / labelled if labelled else None, staging / pool if pool else None, frames)
        outcomes, left_out = _convert(patients, wish, processes)
        copies = _drop_copies(outcomes, wish.pool, left_out)
        left_out += [entry for outcome in outcomes.values() for entry in outcome.left_out]
        notes = problems + [entry for outcome in outcomes.values() for entry in outcome.notes]
        made = AcdcImport({}, sorted(left_out), copies, sorted(notes))
        fold: dict[str, int] = {}
        for name in names:  # the labelled dataset first: its patients decide the folds
            made.datasets[name], fold = _finish(staging / name, patients, outcomes, made, name == labelled, fold)
            _copy_citation(Path(folder).expanduser(), staging / name)
        _publish(staging, raw, names)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return made


def _check_free(raw: Path, name: str) -> None:
    number = name.partition("_")[0]
    taken = sorted(p.name for p in raw.iterdir() if p.name == number or p.name.startswith(f"{number}_"))
    if taken:
        raise NnsslError(f"{raw / taken[0]} exists: choose another number than {number}, or delete that folder first")


def _convert(
    patients: Sequence[Patient], wish: Wish, processes: int
) -> tuple[dict[str, Outcome], list[tuple[str, str]]]:
    """Outcomes by patient; patients whose worker failed are left out as a whole."""
    results, failures = run_cases(partial(convert_patient, wish=wish), patients, processes, "import ACDC")
    left_out = []
    for i, reason in sorted(failures.items()):
        left_out.append((patients[i].name, reason))
        for root in (r for r in (wish.labelled, wish.pool) if r is not None):
            for file in root.glob(f"*/{patients[i].name}_*"):
                file.unlink()
    return {patients[i].name: results[i] for i in sorted(results)}, left_out


def _drop_copies(
    outcomes: dict[str, Outcome], pool: Path | None, left_out: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Take frames out of the pool that a testing patient has too, or that are in the pool already.

    Returns:
        (case, case with the same voxels) for the latter; the former are added to `left_out`.
    """
    if pool is None:
        return []
    testing = {digest: case for outcome in outcomes.values() for digest, case in outcome.testing.items()}
    first: dict[str, str] = {}
    copies = []
    for name, outcome in outcomes.items():
        kept = []
        for frame in outcome.pool:
            case = case_name(name, frame.number)
            if frame.digest not in testing and frame.digest not in first:
                first[frame.digest] = case
                kept.append(frame)
                continue
            if frame.digest in testing:
                left_out.append((case, f"pool: it has the voxels of testing case {testing[frame.digest]}"))
            else:
                copies.append((case, first[frame.digest]))
            (pool / "imagesTr" / f"{case}_0000.nii.gz").unlink()
        outcome.pool = kept
    return copies


def _finish(
    folder: Path,
    patients: Sequence[Patient],
    outcomes: dict[str, Outcome],
    made: AcdcImport,
    labelled: bool,
    fold: dict[str, int],
) -> tuple[list[str], dict[str, int]]:
    """Everything beside the images of one dataset; returns lines for the console, and the folds."""
    frames = {name: outcome.labelled if labelled else outcome.pool for name, outcome in outcomes.items()}
    rows = [row for patient in patients for row in case_rows(patient, frames.get(patient.name, []))]
    lines = _finish_labelled(folder, rows, outcomes) if labelled else _finish_pool(folder, rows)
    training = [row for row in rows if row["set"] == "training"]
    fold = fold or deal_patients(training)
    if len(fold) > 1:
        write_json(splits(training, fold), folder / "splits_final.json")
        lines.append(f"{max(fold.values()) + 1} folds by patient, spread over the groups")
    copies = [] if labelled else made.copies
    write_json(acdc_report(patients, frames, made.left_out, copies, made.notes), folder / REPORT)
    return lines, fold


def _finish_labelled(folder: Path, rows: list[dict[str, str]], outcomes: dict[str, Outcome]) -> list[str]:
    """Tables and description of the labelled dataset; returns lines for the console."""
    training = [row for row in rows if row["set"] == "training"]
    testing = [row for row in rows if row["set"] == "testing"]
    if not training:
        raise NnsslError("no training patient has a usable frame with a label: nothing was written")
    _describe(folder, "end-diastole and end-systole", LABELS, len(training))
    write_table(rows, CASES, folder / "cases.csv")
    lines = [f"{len(training)} labelled cases of {_patients(training)} training patients ({_groups(training)})"]
    if testing:
        labels = sum(
            f.labelled for row in testing for f in outcomes[row["patient"]].labelled if str(f.number) == row["frame"]
        )
        lines.append(
            f"{len(testing)} cases of {_patients(testing)} testing patients in imagesTs, {labels} of them with a label"
        )
    return lines


def _finish_pool(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    """Tables and description of the pool; returns lines for the console."""
    if not rows:
        raise NnsslError("no training patient has a usable frame for the pool: nothing was written")
    _describe(folder, "cine frames of the training patients, unlabelled", {"background": 0}, len(rows))
    write_table(rows, CASES, folder / "cases.csv")
    write_table([row | {"subject": row["patient"]} for row in rows], ("case", "subject"), folder / "subjects.csv")
    return [f"{len(rows)} frames of {_patients(rows)} training patients, none of testing patients"]


def _patients(rows: Sequence[dict[str, str]]) -> int:
    return len({row["patient"] for row in rows})


def _groups(rows: Sequence[dict[str, str]]) -> str:
    counts = Counter({row["patient"]: row["group"] or "group unknown" for row in rows}.values())
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _describe(folder: Path, what: str, labels: dict[str, int], cases: int) -> None:
    content = {
        "name": folder.name,
        "description": f"ACDC, cine MR in short axis: {what}",
        "reference": REFERENCE,
        "channel_names": {"0": "cineMRI"},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_json(content, folder / "dataset.json")


def _copy_citation(source: Path, target: Path) -> None:
    """The data set asks that its note on citing it travels along."""
    for folder in (source, *source.glob("*/"), source.absolute().parent):
        if (folder / CITATION).is_file():
            shutil.copyfile(folder / CITATION, target / CITATION)
            return


def _publish(staging: Path, raw: Path, names: Sequence[str]) -> None:
    """Move the finished datasets to their place: all of them or none."""
    done: list[str] = []
    try:
        for name in names:
            (staging / name).rename(raw / name)
            done.append(name)
    except OSError:
        for name in done:
            (raw / name).rename(staging / name)
        raise
