from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnssl.data.nifti import check_nifti
from nnssl.data.parallel import Failure
from tests.conftest import real_data


def write(path: Path, dtype: str = "<i2", value: float | None = None, cls: type = nib.Nifti1Image) -> Path:
    data = np.random.default_rng(0).integers(0, 100, (12, 13, 14)).astype(dtype)
    if value is not None:
        data[3, 4, 5] = value
    nib.save(cls(data, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "<f8", "u1"])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_good_files_pass(tmp_path: Path, name: str, dtype: str, cls: type) -> None:
    check_nifti(write(tmp_path / name, dtype, cls=cls))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_truncated_files_are_found(tmp_path: Path, name: str, dtype: str) -> None:
    path = write(tmp_path / name, dtype)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(Failure, match=r"truncated|shorter"):
            check_nifti(path)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    whole = path.read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]))
    check_nifti(tmp_path / "b.nii.gz")


def test_unknown_voxel_type_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[70] = 94  # the header's datatype
    path.write_bytes(bytes(content))
    with pytest.raises(Failure, match="voxel type 94 does not exist"):
        check_nifti(path)


def test_a_name_alone_makes_no_gzip_file(tmp_path: Path) -> None:
    write(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    with pytest.raises(Failure, match="not gzip data"):
        check_nifti(tmp_path / "a.nii.gz")


DAMAGE = {
    "no axes": (40, "<h", 0, "dimensions"),
    "an axis of no length": (42, "<h", 0, "dimensions"),
    "eight axes": (40, "<h", 8, "dimensions"),
    "more than memory": (42, "<hhh", (32767, 32767, 32767), "GiB of memory"),
    "no magic word": (344, "<4s", b"ni7\0", "magic word"),
    "voxels begin nowhere": (108, "<f", float("nan"), "begin at byte nan"),
    "voxels begin beyond all disks": (108, "<f", 1e30, "begin at byte 1e"),
    "voxels begin before the file": (108, "<f", -352.0, "begin at byte -352"),
    "absurd axes": (280, "<f", 1e30, "axes or origin"),
    "an origin that is no number": (292, "<f", float("nan"), "axes or origin"),
    "absurd quaternion": (256, "<f", float("inf"), "axes or origin"),
    "a spacing of nothing": (80, "<f", 0.0, "not positive"),
}
"""What -> where in the header, how, which numbers, what is said. ITK gives a wrong image, or takes minutes or all memory."""


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_headers_are_refused_before_a_reader_sees_them(tmp_path: Path, what: str) -> None:
    at, kind, value, said = DAMAGE[what]
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<hh", content, 252, 1, 1)  # both ways of saying where the image lies
    struct.pack_into(kind, content, at, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(bytes(content))
    with pytest.raises(Failure, match=said):
        check_nifti(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_readers_hide_are_found(tmp_path: Path, value: float) -> None:
    with pytest.raises(Failure, match="1 voxel"):
        check_nifti(write(tmp_path / "a.nii.gz", "<f4", value))


@pytest.mark.data
def test_real_images_pass_and_broken_ones_do_not() -> None:
    for name in ("Dataset004_Hippocampus", "Dataset027_ACDC", "Dataset050_SarcomaCT"):
        for path in sorted((real_data(name) / "imagesTr").glob("*.nii.gz"))[:5]:
            check_nifti(path)
    for name in ("truncated", "with_inf", "with_nan", "zero_spacing", "text"):
        with pytest.raises(Failure):
            check_nifti(real_data("odd/bad") / f"{name}.nii.gz")
