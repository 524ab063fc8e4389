from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnssl.data.headers import read_header


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("dtype", "orientation"), [(np.int16, "LPS"), (np.float32, "RAS"), (np.uint8, "PIR")])
def test_type_and_orientation_are_those_of_the_file(tmp_path: Path, ending: str, dtype: type, orientation: str) -> None:
    image = sitk.DICOMOrient(sitk.GetImageFromArray(np.zeros((9, 10, 11), dtype)), orientation)
    sitk.WriteImage(image, str(tmp_path / f"image{ending}"))
    found = read_header(tmp_path / f"image{ending}")
    assert (found.dtype, found.orientation) == (np.dtype(dtype).name, orientation)


def test_a_scaled_file_has_the_type_on_disk(tmp_path: Path) -> None:
    """SimpleITK names the type after slope and intercept."""
    import nibabel

    image = nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    assert read_header(tmp_path / "scaled.nii.gz").dtype == "int16"


def test_oblique_images_have_the_nearest_orientation(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((9, 10, 11), np.int16))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection([c, -s, 0, s, c, 0, 0, 0, 1])
    sitk.WriteImage(image, str(tmp_path / "oblique.nii.gz"))
    assert read_header(tmp_path / "oblique.nii.gz").orientation == "LPS"


def test_pictures_have_a_type_only(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 10), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((9, 10), np.uint16)).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((9, 10), np.float32))
    assert [read_header(tmp_path / n).dtype for n in ("a.png", "b.png", "c.tif")] == ["uint8", "uint16", "float32"]
    assert read_header(tmp_path / "a.png").orientation is None


def test_a_header_that_itk_refuses_has_a_type_all_the_same(tmp_path: Path) -> None:
    """Axes that are not at right angles: nnU-Net has a reader that takes them."""
    import nibabel

    skewed = np.eye(4)
    skewed[0, 1] = 0.5
    image = nibabel.Nifti1Image(np.zeros((9, 10, 11), np.int16), None)
    image.header.set_sform(skewed, 1)
    nibabel.save(image, tmp_path / "skewed.nii.gz")
    found = read_header(tmp_path / "skewed.nii.gz")
    assert (found.dtype, found.orientation) == ("int16", None)
    content = (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: short\ndimension: x\n\n")
    assert content and read_header(tmp_path / "a.nrrd").dtype is None
