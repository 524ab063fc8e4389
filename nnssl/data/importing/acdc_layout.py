"""Where the files of ACDC lie in the data set as published, in both forms that are in circulation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nnssl.errors import MissingError

PATIENT = re.compile(r"^patient(\d{3,})$", re.IGNORECASE)
PIECE = re.compile(r"^(patient\d{3,})_(?:4d|frame(\d+)(_gt)?)\.nii(?:\.gz)?$", re.IGNORECASE)
SETS = {"training": False, "train": False, "testing": True, "test": True}
LAST_TRAINING_PATIENT = 100
"""In the published data set patients 101 to 150 are the testing patients."""

DEPTH = 5


@dataclass(frozen=True)
class Info:
    """What Info.cfg says; empty strings and None where it says nothing.

    Attributes:
        ed, es: numbers of the frames at end-diastole and end-systole, counted from 1.
        height: cm.
        weight: kg.
        frames: number of frames of the cine scan.
    """

    ed: int | None = None
    es: int | None = None
    group: str = ""
    height: float | None = None
    weight: float | None = None
    frames: int | None = None

    def phase(self, frame: int) -> str:
        """`ED`, `ES` or empty."""
        return "ED" if frame == self.ed else "ES" if frame == self.es else ""


@dataclass
class Patient:
    """Files of one patient.

    Attributes:
        name: `patient001`.
        testing: of the testing set: never part of a pool.
        frames, labels: files by frame number, counted from 1.
        cine: the 4D file.
        info: None without Info.cfg.
        problems: (file or patient, what is wrong with it).
    """

    name: str
    testing: bool
    frames: dict[int, Path] = field(default_factory=dict)
    labels: dict[int, Path] = field(default_factory=dict)
    cine: Path | None = None
    info: Info | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


def find_patients(folder: Path) -> tuple[list[Patient], list[tuple[str, str]]]:
    """Patients below a folder: `training/patient001`, `database/testing/patient101`, or the patients' folders themselves.

    What belongs to the testing set is known from the nearest folder named `training` or `testing`; without such a folder
    from the patient's number, as published.

    Returns:
        Patients by name, and (patient, reason) for folders that were not used.

    Raises:
        MissingError: no folder, or no patients in it.
    """
    if not folder.is_dir():
        raise MissingError(f"--acdc {folder} is not a folder: give the folder that holds training/ and testing/")
    patients: dict[str, Patient] = {}
    problems = []
    root = folder.absolute()
    for path in sorted(_patient_folders(root, DEPTH)):
        name = path.name.lower()
        if name in patients:
            problems.append((name, f"found a second time in {path.parent.name}/: only the first is used"))
            continue
        patients[name] = _read_patient(path, name, _is_testing(path, root))
    if not patients:
        archives = sorted(p.name for p in folder.glob("*.zip"))
        hint = f" Unpack {archives[0]} first." if archives else ""
        raise MissingError(
            f"no folders like training/patient001 in {folder}: give the folder of ACDC as downloaded.{hint}"
        )
    return [patients[name] for name in sorted(patients)], problems


def _patient_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of patients, links followed; other folders are searched `depth` levels deep."""
    if PATIENT.match(folder.name):
        yield folder
        return
    for entry in sorted(folder.iterdir()) if depth else ():
        if entry.is_dir() and not entry.name.startswith((".", "__")):
            yield from _patient_folders(entry, depth - 1)


def _is_testing(path: Path, root: Path) -> bool:
    for parent in path.parents:
        if parent.name.lower() in SETS:
            return SETS[parent.name.lower()]
        if parent == root:  # what lies above says nothing of the data
            break
    return int(path.name[len("patient") :]) > LAST_TRAINING_PATIENT


def _read_patient(folder: Path, name: str, testing: bool) -> Patient:
    patient = Patient(name, testing)
    for entry in sorted(folder.iterdir(), reverse=True):  # .nii.gz replaces .nii where both are there
        match = PIECE.match(entry.name)
        if entry.name.lower() == "info.cfg":
            patient.info = _read_info(entry, patient)
        elif match is None:
            continue
        elif match[1].lower() != name:
            patient.problems.append((name, f"its folder holds {entry.name}, which belongs to another patient"))
        elif (file := _image_file(entry)) is None:
            patient.problems.append(
                (entry.name.partition(".")[0], f"the folder {entry.name} does not hold one .nii file")
            )
        elif match[2] is None:
            patient.cine = file
        else:
            (patient.labels if match[3] else patient.frames)[int(match[2])] = file
    if patient.info is None:
        patient.problems.append((name, "no Info.cfg: phase, group, height and weight stay empty"))
    return patient


def _image_file(entry: Path) -> Path | None:
    """The file itself; some downloads unpack to a folder `x.nii.gz` that holds the image as `.nii`."""
    if not entry.is_dir():
        return entry
    inside = [p for p in entry.iterdir() if p.name.endswith((".nii", ".nii.gz")) and not p.name.startswith(".")]
    return inside[0] if len(inside) == 1 else None


def _read_info(path: Path, patient: Patient) -> Info:
    """Read lines like `ED: 1`; a value that is no number is left out and reported."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        patient.problems.append((patient.name, f"Info.cfg cannot be read ({error.strerror})"))
        return Info()
    pairs = (line.partition(":") for line in text.splitlines())
    found = {key.strip().lower(): value.strip() for key, _, value in pairs}

    def number(key: str) -> float | None:
        said = found.get(key, "")
        try:
            value = float(said)
        except ValueError:
            value = float("nan")
        if value > 0 and value != float("inf"):
            return value
        patient.problems.append((patient.name, f"Info.cfg has no usable {key} ({said or 'missing'})"))
        return None

    def whole(key: str) -> int | None:
        value = number(key)
        return None if value is None else int(value)

    group = found.get("group", "")
    if not group:
        patient.problems.append((patient.name, "Info.cfg has no group"))
    return Info(whole("ed"), whole("es"), group, number("height"), number("weight"), whole("nbframe"))
