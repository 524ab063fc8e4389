from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.importing.items import NIFTI, NRRD, Item
from nnssl.data.importing.orientation import CODES, nearest_rotation, parse_orientation, shear_angle
from nnssl.data.importing.volumes import Volume, load_volumes, pick_frames, smallest_type
from nnssl.data.parallel import Failure
from nnssl.errors import NnsslError


def load(path: Path, kind: str = NIFTI, **how: object) -> list[Volume]:
    return list(load_volumes(Item(kind, ((str(path),),), path.name, path.name, **how), None))  # type: ignore[arg-type]


def test_frames_are_spread_evenly() -> None:
    assert pick_frames(5, None) == pick_frames(5, 9) == [0, 1, 2, 3, 4]
    assert pick_frames(30, 4) == [0, 10, 19, 29]
    assert pick_frames(30, 1) == [0]


def test_diffusion_nrrd_gives_its_directions_and_colour_is_refused(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (10, 11, 12, 6)).astype("<i2")  # z, y, x, direction
    head = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 6 12 11 10\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: {} domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    for kind in ("list", "vector"):
        (tmp_path / f"{kind}.nrrd").write_bytes(head.format(kind).encode() + voxels.tobytes())
    frames = load(tmp_path / "list.nrrd", NRRD)
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(frame.images[0]), voxels[..., t])
        assert frame.images[0].GetSpacing() == (1.0, 1.0, 2.0)
    assert len(frames) == 6
    with pytest.raises(Failure, match="6 values per voxel"):
        load(tmp_path / "vector.nrrd", NRRD)


@pytest.mark.parametrize("pixel", [sitk.sitkComplexFloat32, sitk.sitkVectorUInt8])
def test_what_has_no_scalar_intensities_is_refused(tmp_path: Path, pixel: int) -> None:
    image = sitk.Image([10, 10, 10], pixel, 3) if pixel == sitk.sitkVectorUInt8 else sitk.Image([10, 10, 10], pixel)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(Failure, match=r"complex numbers|values per voxel"):
        load(tmp_path / "a.nii.gz")


def test_reasons_hold_no_addresses_and_paths(tmp_path: Path) -> None:
    """Otherwise two imports of the same files would not report the same."""
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.Image([10, 10, 10], sitk.sitkInt16), str(path))
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: rww"))
    with pytest.raises(Failure, match="cannot be read") as caught:
        load(path, NRRD)
    assert "0x" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "rww" in str(caught.value)


def test_metadata_in_any_alphabet_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (9, 10, 11)).astype(np.int16))
    image.SetSpacing((1, 2, 3))
    image.SetMetaData("Gender", "Mustermann")
    sitk.WriteImage(image, str(path))
    path.write_bytes(path.read_bytes().replace(b"Gender:=", "Gr\u00f6\u00dfe:=".encode("latin-1")))
    (volume,) = load(path, NRRD)
    assert not volume.images[0].GetMetaDataKeys()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.images[0]), sitk.GetArrayFromImage(image))
    assert volume.images[0].GetSpacing() == (1, 2, 3)


def test_sheared_nifti_is_read_with_its_angle(tmp_path: Path) -> None:
    """A tilted gantry in a NIfTI header: SimpleITK refuses such a file, nnU-Net would fall back to another reader."""
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    affine[1, 2] = 3.0 * np.tan(np.radians(12))
    data = np.random.default_rng(0).integers(0, 99, (12, 13, 14)).astype(np.int16)
    file = nib.Nifti1Image(data, affine)
    file.set_qform(None, code=0)
    nib.save(file, tmp_path / "a.nii.gz")
    (volume,) = load(tmp_path / "a.nii.gz")
    assert "sheared by 12.0 degrees" in volume.notes[0]
    assert not volume.as_is
    image = volume.images[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), data.T)
    assert image.GetSpacing()[:2] == pytest.approx((0.8, 0.8), rel=1e-6)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)
    assert direction[0, 0] == pytest.approx(-1)  # RAS in the file, LPS here


@pytest.mark.parametrize(("dtype", "exact"), [("int16", True), ("float32", True), ("float64", False)])
def test_files_that_need_no_change_are_known(tmp_path: Path, dtype: str, exact: bool) -> None:
    nib.save(nib.Nifti1Image(np.zeros((12, 13, 14), dtype), np.eye(4)), tmp_path / "a.nii.gz")
    (volume,) = load(tmp_path / "a.nii.gz")
    assert bool(volume.as_is) is exact


def test_sixteen_bits_where_they_are_enough() -> None:
    image = sitk.GetImageFromArray(np.array([[[-1024, 3071]]], np.int32))
    assert smallest_type(image).GetPixelID() == sitk.sitkInt16
    image = sitk.GetImageFromArray(np.array([[[0, 40000]]], np.int32))
    assert smallest_type(image).GetPixelID() == sitk.sitkUInt16
    image = sitk.GetImageFromArray(np.array([[[-1, 40000]]], np.int32))
    assert smallest_type(image).GetPixelID() == sitk.sitkInt32


def test_orientation_codes() -> None:
    assert len(CODES) == 48
    assert parse_orientation("lps") == "LPS"
    assert parse_orientation("Keep") == "keep"
    for wrong in ("LPX", "LLS", "LP", ""):
        with pytest.raises(NnsslError, match="three letters"):
            parse_orientation(wrong)


def test_shear_and_nearest_rotation() -> None:
    a = np.radians(30)
    turned = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.diag([1, 2, 3])
    assert shear_angle(turned) == pytest.approx(0, abs=1e-6)
    rotation, lengths = nearest_rotation(turned)
    np.testing.assert_allclose(rotation * lengths, turned, atol=1e-12)
    sheared = turned.copy()
    sheared[:, 2] += np.tan(np.radians(5)) * 3 * turned[:, 0]
    assert shear_angle(sheared) == pytest.approx(5)
