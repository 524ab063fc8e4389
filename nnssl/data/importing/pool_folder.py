"""The raw dataset that an import makes or adds to."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

from nnssl.data.folders import read_dataset_json
from nnssl.data.importing.report import FORMAT, REPORT, Report
from nnssl.data.subjects import read_subject_table
from nnssl.errors import MissingError, NnsslError
from nnssl.files import atomic_path, check_number, read_json, write_json

ENDING = ".nii.gz"


@dataclass
class Pool:
    """A raw dataset; of one that is added to, also what is in it.

    Attributes:
        digests: digest -> case.
        subjects: case -> subject.
        before: the report of the earlier imports.
    """

    folder: Path
    name: str
    channels: tuple[str, ...] | None = None
    digests: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    before: dict | None = None

    def case_names(self) -> list[str]:
        """Cases that have a file already, recorded or not."""
        images = self.folder / "imagesTr"
        return sorted({p.name[: -len("_0000" + ENDING)] for p in images.glob(f"*{ENDING}")}) if images.is_dir() else []

    def finish(self, staging: Path, channels: tuple[str, ...], report: Report) -> None:
        """Put the staged images in place, with dataset.json, subjects.csv and the report."""
        subjects = {**self.subjects, **report.subjects}
        record = report.as_json()
        description = {
            "channel_names": {str(c): name for c, name in enumerate(channels)},
            "labels": {"background": 0},
            "file_ending": ENDING,
            "numTraining": len(record["cases"]),
        }
        if self.before is None:
            _write(staging, description, record, subjects)
            if self.folder.exists():
                raise NnsslError(f"{self.folder} has been made by somebody else in the meantime")
            staging.rename(self.folder)
            return
        for file in sorted((staging / "imagesTr").iterdir()):
            file.rename(self.folder / "imagesTr" / file.name)
        _write(self.folder, description, record, subjects)


def new_pool(raw: Path, dataset_id: int, name: str | None) -> Pool:
    """A pool that does not exist yet.

    Raises:
        NnsslError: no name, a name that cannot be used, or the number is taken.
    """
    if not name:
        raise NnsslError("-n NAME is needed for a new dataset, for example -n Pool")
    check_name(name)
    there = _with_number(raw, dataset_id)
    if there:
        add = "; --add adds to it" if (there[0] / REPORT).is_file() else ""
        raise NnsslError(f"dataset {dataset_id} exists: {there[0]}. Take another number, or remove the folder{add}")
    return Pool(raw / f"Dataset{dataset_id:03d}_{name}", name)


def check_name(name: str) -> None:
    """Raise NnsslError unless a dataset may have this name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise NnsslError(f"-n {name}: use letters, digits, '_' and '-', for example -n Pool")


def open_pool(raw: Path, dataset_id: int, name: str | None) -> Pool | None:
    """The pool of that number, to add to; None if there is none.

    Raises:
        NnsslError: it was not made by nnssl_import, or has another name.
    """
    there = _with_number(raw, dataset_id)
    if not there:
        return None
    folder = there[0]
    if not (folder / REPORT).is_file():
        raise NnsslError(f"{folder} has no {REPORT}: --add works on datasets that nnssl_import made")
    own = folder.name.partition("_")[2]
    if name and name != own:
        raise NnsslError(f"dataset {dataset_id} is called {own}, not {name}: leave -n out, or take another number")
    before = read_json(folder / REPORT)
    check_number(before, "nnssl_import", FORMAT, folder / REPORT)
    known = before.get("cases") if isinstance(before, dict) else None
    if not isinstance(known, dict) or not all(isinstance(case, dict) and "digest" in case for case in known.values()):
        raise MissingError(f"{folder / REPORT} is no report of nnssl_import")
    channels = tuple(read_dataset_json(folder / "dataset.json")["channel_names"].values())
    digests = {case["digest"]: name for name, case in known.items()}
    return Pool(folder, own, channels, digests, _read_subjects(folder), before)


def _with_number(raw: Path, dataset_id: int) -> list[Path]:
    pattern = re.compile(rf"Dataset{dataset_id:03d}(_.*)?$")
    return sorted(p for p in raw.iterdir() if pattern.match(p.name))


def _write(folder: Path, description: dict, record: dict, subjects: dict[str, str]) -> None:
    write_json(record, folder / REPORT)
    if subjects:
        with atomic_path(folder / "subjects.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["case", "subject"])
            table.writerows(sorted(subjects.items()))
    write_json(description, folder / "dataset.json")


def _read_subjects(folder: Path) -> dict[str, str]:
    path = folder / "subjects.csv"
    return read_subject_table(path) if path.is_file() else {}
