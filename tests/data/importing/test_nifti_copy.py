from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnssl.data.importing.nifti_copy import copy_nifti
from nnssl.data.nifti import check_nifti


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_voxels_stay_and_words_go(tmp_path: Path, cls: type, name: str) -> None:
    data = np.random.default_rng(0).integers(-100, 100, (8, 9, 10)).astype(">i2")
    image = cls(data, np.diag([1, 2, 3, 1.0]))
    image.header["descrip"] = b"ERIKA"
    image.header["aux_file"] = b"ERIKA"
    image.header["intent_name"] = b"ERIKA"
    image.header.set_slope_inter(0.5, 3)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ERIKA"))
    nib.save(image, tmp_path / "plain.nii")
    raw = (tmp_path / "plain.nii").read_bytes() + b"ERIKA was here"
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.lower().endswith("gz") else raw)
    copy_nifti(tmp_path / name, tmp_path / "copy.nii.gz")
    check_nifti(tmp_path / "copy.nii.gz")
    copy = nib.load(tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(copy.dataobj.get_unscaled(), nib.load(tmp_path / "plain.nii").dataobj.get_unscaled())
    np.testing.assert_array_equal(copy.affine, image.affine)
    assert (copy.dataobj.slope, copy.dataobj.inter) == (0.5, 3)
    assert type(copy) is cls
    assert b"ERIKA" not in gzip.decompress((tmp_path / "copy.nii.gz").read_bytes())


def test_copying_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    copy_nifti(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    copy_nifti(tmp_path / "b.nii.gz", tmp_path / "c.nii.gz")
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
