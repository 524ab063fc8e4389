"""Small files in the layout of ACDC as published."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SPACING = (1.5, 1.25, 10.0)  # x, y, z in mm
GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


@dataclass(frozen=True)
class Acdc:
    """How the files are made.

    Attributes:
        frames: of each cine scan.
        es: frame at end-systole; end-diastole is the first.
        form: `gz`, `nii` (not compressed), or `folder` (a folder `x.nii.gz` that holds `x.nii`).
        test_labels: whether labels of testing patients are there.
    """

    frames: int = 6
    es: int = 4
    shape: tuple[int, int, int] = (20, 16, 5)  # x, y, z
    form: str = "gz"
    test_labels: bool = True


def write_acdc(root: Path, training: int = 6, testing: int = 2, how: Acdc | None = None) -> Path:
    """Patients 1.. in training/ and 101.. in testing/; returns the folder."""
    how = how or Acdc()
    for number in range(1, training + 1):
        write_patient(root / "training", number, how)
    for number in range(101, 101 + testing):
        write_patient(root / "testing", number, how, labels=how.test_labels)
    (root / "MANDATORY_CITATION.md").write_text("cite me\n")
    return root


def write_patient(folder: Path, number: int, how: Acdc, labels: bool = True) -> Path:
    """One patient: 4D file, two frames, their labels, Info.cfg. The 4D file's origin is not the frames'."""
    name = f"patient{number:03d}"
    target = folder / name
    target.mkdir(parents=True)
    cine = voxels(number, how)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    moved = affine.copy()
    moved[:3, 3] = (5.0, -7.0, 30.0)
    write_nifti(target, f"{name}_4d", cine, affine, how.form, seconds=0.03)
    for frame in (1, how.es):
        image = cine[..., frame - 1]
        write_nifti(target, f"{name}_frame{frame:02d}", image, moved, how.form)
        if labels:
            write_nifti(target, f"{name}_frame{frame:02d}_gt", heart(how.shape), moved, how.form)
    lines = {
        "ED": 1, "ES": how.es, "Group": GROUPS[number % len(GROUPS)], "Height": 160.0 + number % 30,
        "NbFrame": how.frames, "Weight": 60.5 + number % 30,
    }  # fmt: skip
    (target / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return target


def voxels(number: int, how: Acdc) -> np.ndarray:
    """The cine scan (x, y, z, t) of a patient, int16; every patient and frame another one."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 400, (*how.shape, how.frames)).astype(np.int16)


def heart(shape: tuple[int, int, int]) -> np.ndarray:
    """A label with background 0 and the classes 1, 2 and 3."""
    label = np.zeros(shape, np.uint8)
    label[4:8, 4:12, 1:-1], label[8:14, 4:12, 1:-1], label[10:12, 6:10, 1:-1] = 1, 2, 3
    return label


def write_nifti(
    folder: Path, stem: str, array: np.ndarray, affine: np.ndarray, form: str, seconds: float = 0.0
) -> Path:
    """Write one image in one of the forms in circulation."""
    image = nib.Nifti1Image(array, affine)
    if array.ndim == 4:
        image.header.set_zooms((*SPACING, seconds))
    if form == "folder":
        inside = folder / f"{stem}.nii.gz"
        inside.mkdir()
        path = inside / f"{stem}.nii"
    else:
        path = folder / (f"{stem}.nii.gz" if form == "gz" else f"{stem}.nii")
    nib.save(image, path)
    return path


def truncate(path: Path) -> None:
    """Cut a .nii.gz file in the middle, as a broken download does."""
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))


def remove(path: Path) -> None:
    """Remove a file or a folder that takes the place of one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
