"""What a worker does with one ACDC patient: labelled frames, and the frames of the cine scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk

from nnssl.data.images import read_case, voxel_digest
from nnssl.data.importing.acdc_layout import Info, Patient
from nnssl.data.importing.items import NIFTI, Item
from nnssl.data.importing.orientation import orientation
from nnssl.data.importing.volumes import load_volumes, pick_frames
from nnssl.data.nifti import check_nifti
from nnssl.data.parallel import Failure

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@dataclass(frozen=True)
class Wish:
    """What to make of the patients.

    Attributes:
        labelled, pool: folders of the two datasets while they are made; None = not wanted.
        frames: of each cine scan; None = all.
    """

    labelled: Path | None
    pool: Path | None
    frames: int | None = None


@dataclass(frozen=True)
class Frame:
    """One frame that was written.

    Attributes:
        number: counted from 1.
        shape, spacing: (Z, Y, X), voxels and mm.
        orientation: three letters, axes in x, y, z order.
        dtype: of the file.
        digest: of its voxels.
        labelled: with a label file.
    """

    number: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    dtype: str
    digest: str
    labelled: bool = False


@dataclass
class Outcome:
    """What became of a patient.

    Attributes:
        labelled, pool: frames written to the two datasets.
        testing: digest -> case of a testing patient's frames, which no pool may hold.
        left_out: (case or patient, reason).
        notes: (case or patient, what is worth knowing although it was taken).
    """

    labelled: list[Frame] = field(default_factory=list)
    pool: list[Frame] = field(default_factory=list)
    testing: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def case_name(patient: str, frame: int) -> str:
    """`patient001_frame01`, as in the published file names."""
    return f"{patient}_frame{frame:02d}"


def convert_patient(patient: Patient, *, wish: Wish) -> Outcome:
    """Read, check and write what one patient contributes; a broken piece costs that piece only."""
    outcome = Outcome(notes=list(patient.problems))
    images: dict[int, sitk.Image] = {}
    for number, path in sorted(patient.frames.items()):
        try:
            images[number] = _read(path)[0]
        except Failure as error:
            outcome.left_out.append((case_name(patient.name, number), str(error)))
    for number in sorted(set(patient.labels) - set(patient.frames)):
        outcome.left_out.append((case_name(patient.name, number), "a label without its image"))
    for phase, said in (("ED", _info(patient).ed), ("ES", _info(patient).es)):
        if said is not None and said not in patient.frames:
            outcome.notes.append((patient.name, f"Info.cfg names frame {said} as {phase}, and there is no file of it"))
    if patient.testing:
        outcome.testing = {voxel_digest(_voxels(i)): case_name(patient.name, n) for n, i in images.items()}
    if wish.labelled is not None:
        _labelled_frames(patient, images, wish.labelled, outcome)
    if wish.pool is not None and not patient.testing:
        _pool_frames(patient, images, wish.pool, wish.frames, outcome)
    return outcome


def _info(patient: Patient) -> Info:
    return patient.info or Info()


def _read(path: Path) -> list[sitk.Image]:
    """All frames of a file, checked: readable, finite, not constant; 32-bit floating point instead of 64."""
    if not path.is_file():
        raise Failure(f"{path.name} does not exist (a dangling link?)")
    check_nifti(path)
    frames = []
    for volume in load_volumes(Item(NIFTI, ((str(path),),), path.name, path.name), None):
        image = volume.images[0]
        if image.GetPixelID() == sitk.sitkFloat64:
            image = sitk.Cast(image, sitk.sitkFloat32)
        frames.append(image)
    return frames


def _voxels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).astype(np.float32)[None]


def _check(image: sitk.Image) -> str:
    """Digest of a frame that can be trained on; raises Failure otherwise."""
    data = _voxels(image)
    read_case((), SimpleNamespace(read_images=lambda _: (data, {"spacing": image.GetSpacing()[::-1]})), 1)
    return voxel_digest(data)


def _frame(number: int, image: sitk.Image, digest: str, labelled: bool = False) -> Frame:
    dtype = str(sitk.GetArrayViewFromImage(image).dtype)
    spacing = tuple(float(s) for s in image.GetSpacing()[::-1])
    return Frame(number, image.GetSize()[::-1], spacing, orientation(image), dtype, digest, labelled)


def _labelled_frames(patient: Patient, images: dict[int, sitk.Image], target: Path, outcome: Outcome) -> None:
    """Frames with labels; of testing patients also those without, as nnU-Net has them in imagesTs."""
    part = "Ts" if patient.testing else "Tr"
    for number, image in images.items():
        case = case_name(patient.name, number)
        try:
            digest = _check(image)
            label = _read_label(patient.labels[number], image) if number in patient.labels else None
        except Failure as error:
            outcome.left_out.append((case, str(error)))
            continue
        if label is None and not patient.testing:
            outcome.left_out.append((case, "no label: not part of the labelled dataset"))
            continue
        _write(image, target / f"images{part}" / f"{case}_0000.nii.gz")
        if label is not None:
            _write(label, target / f"labels{part}" / f"{case}.nii.gz")
        outcome.labelled.append(_frame(number, image, digest, label is not None))


def _read_label(path: Path, image: sitk.Image) -> sitk.Image:
    """A label as uint8 on the grid of its image; raises Failure where it does not fit."""
    label = _read(path)[0]
    difference = grid_difference(label, image)
    if difference:
        raise Failure(f"its label does not fit: {difference}")
    values = np.unique(sitk.GetArrayViewFromImage(label))
    strange = [float(v) for v in values if v not in LABELS.values()]
    if strange:
        raise Failure(f"its label has the value(s) {', '.join(f'{v:g}' for v in strange[:5])}; ACDC has 0 to 3")
    label = sitk.Cast(label, sitk.sitkUInt8)
    label.CopyInformation(image)
    return label


def grid_difference(a: sitk.Image, b: sitk.Image) -> str:
    """How the grids of two images differ: in size, or by more than half a pixel at a corner; empty if they do not."""
    if a.GetSize() != b.GetSize():
        return f"{_times(a.GetSize())} against {_times(b.GetSize())} voxels"
    last = [n - 1 for n in a.GetSize()]
    corners = [[last[k] if bit >> k & 1 else 0 for k in range(3)] for bit in range(8)]
    apart = [np.subtract(a.TransformIndexToPhysicalPoint(c), b.TransformIndexToPhysicalPoint(c)) for c in corners]
    distance = float(np.linalg.norm(apart, axis=1).max())
    if distance <= 0.5 * min(b.GetSpacing()):
        return ""
    spacings = [_times(image.GetSpacing()) for image in (a, b)]
    return f"corners lie up to {distance:.1f} mm apart" + (
        f", spacing {spacings[0]} against {spacings[1]} mm" if spacings[0] != spacings[1] else ""
    )


def _times(numbers: tuple[float, ...]) -> str:
    return "x".join(f"{n:.4g}" for n in numbers)


def _pool_frames(
    patient: Patient, images: dict[int, sitk.Image], target: Path, wanted: int | None, outcome: Outcome
) -> None:
    """Frames of the cine scan. Where a frame also has a file of its own, that file's voxels and grid are used."""
    cine = _read_cine(patient, outcome)
    frames = dict(enumerate(cine, start=1))
    if cine:
        _compare_with_files(patient, frames, images, outcome)
    elif images:
        outcome.notes.append((patient.name, f"no usable 4D file: the pool has its {len(images)} frame file(s) only"))
    else:
        outcome.left_out.append((patient.name, "neither a usable 4D file nor frames for the pool"))
    if cine and images:
        grid = next(iter(images.values()))
        for frame in frames.values():
            if frame.GetSize() == grid.GetSize():
                frame.CopyInformation(grid)
    frames |= images
    numbers = sorted(frames)
    for i in pick_frames(len(numbers), wanted):
        case = case_name(patient.name, numbers[i])
        image = frames[numbers[i]]
        try:
            digest = _check(image)
        except Failure as error:
            outcome.left_out.append((case, f"pool: {error}"))
            continue
        _write(image, target / "imagesTr" / f"{case}_0000.nii.gz")
        outcome.pool.append(_frame(numbers[i], image, digest))


def _read_cine(patient: Patient, outcome: Outcome) -> list[sitk.Image]:
    """Frames of the 4D file; empty where there is none that can be read."""
    if patient.cine is None:
        return []
    try:
        cine = _read(patient.cine)
    except Failure as error:
        outcome.left_out.append((f"{patient.name}_4d", str(error)))
        return []
    if len(cine) == 1:
        outcome.left_out.append((f"{patient.name}_4d", "holds one frame: not a cine scan"))
        return []
    said = _info(patient).frames
    if said is not None and said != len(cine):
        outcome.notes.append(
            (patient.name, f"Info.cfg says {said} frames, the 4D file has {len(cine)}: all of these are used")
        )
    return cine


def _compare_with_files(
    patient: Patient, frames: dict[int, sitk.Image], images: dict[int, sitk.Image], outcome: Outcome
) -> None:
    """Frame files are frames of the 4D file, voxel by voxel; say where they are not, and where the grid differs."""
    grids = []
    for number, image in images.items():
        case = case_name(patient.name, number)
        if number not in frames:
            outcome.notes.append((case, f"lies beyond the {len(frames)} frames of the 4D file"))
            continue
        digest = voxel_digest(_voxels(image))
        if digest != voxel_digest(_voxels(frames[number])):
            same = [n for n, frame in frames.items() if voxel_digest(_voxels(frame)) == digest]
            hint = f" (they are those of its frame {same[0]})" if same else ""
            outcome.notes.append(
                (case, f"voxels differ from frame {number} of the 4D file{hint}: the frame's file is used")
            )
        elif difference := grid_difference(frames[number], image):
            grids.append(difference)
    if grids:
        text = (
            f"the grid of the 4D file differs from the frame files' ({grids[0]}): the pool has that of the frame files"
        )
        outcome.notes.append((patient.name, text))


def _write(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=3)
