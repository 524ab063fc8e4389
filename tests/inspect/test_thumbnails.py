"""Small pictures: the middle of the body, upright, with the right proportions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnssl.data.folders import RawCase
from nnssl.inspect.thumbnails import LARGE, SMALL, Order, draw_case, draw_cases, upright
from tests.conftest import write_image


def order(path: Path, large: bool = True) -> Order:
    return Order(RawCase("case", (str(path),), None), large)


def pixels(jpeg: bytes) -> np.ndarray:
    return imread(io.BytesIO(jpeg), format="jpg")[..., 0].astype(float)


def test_proportions_follow_the_spacing(tmp_path: Path) -> None:
    """20 slices of 5 mm, 60 mm x 40 mm in-plane: the longest edge is 100 mm."""
    image = np.random.default_rng(0).normal(100, 10, (20, 60, 40)).astype(np.float32)
    write_image(image, tmp_path / "a.nii.gz", (5, 1, 1))
    thumbnail = draw_case(order(tmp_path / "a.nii.gz"), reader="SimpleITKIO", channels=["MRI"])
    assert thumbnail.shape == (20, 60, 40)
    assert thumbnail.spacing == (5, 1, 1)
    found = {p.caption: pixels(p.jpeg).shape for p in thumbnail.pictures}
    unit = LARGE / 100
    expected = {"axial": (60, 40), "coronal": (100, 40), "sagittal": (100, 60)}
    for name, (rows, columns) in expected.items():
        assert found[name] == pytest.approx((rows * unit, columns * unit), abs=1)
    small = draw_case(order(tmp_path / "a.nii.gz", large=False), reader="SimpleITKIO", channels=["MRI"])
    assert [p.caption for p in small.pictures] == ["axial"]
    assert max(pixels(small.pictures[0].jpeg).shape) == SMALL


def test_the_slice_goes_through_the_body(tmp_path: Path) -> None:
    """The body is in the last slices of a CT; the middle of the image is air."""
    image = np.full((40, 32, 32), -1000, np.int16)
    image[34:, 6:26, 6:26] = 40
    write_image(image, tmp_path / "a.nii.gz")
    thumbnail = draw_case(order(tmp_path / "a.nii.gz", large=False), reader="SimpleITKIO", channels=["CT"])
    picture = pixels(thumbnail.pictures[0].jpeg)
    middle = SMALL // 2
    assert picture[middle, middle] > 200
    assert picture[2, 2] < 30


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAI", "PSL", "ARI", "SRP"])
def test_any_orientation_is_shown_upright(tmp_path: Path, code: str) -> None:
    """A bright head, front and right side are where they belong however the axes are stored."""
    z, y, x = np.indices((24, 24, 24)).astype(float)  # L, P and S grow with x, y and z
    image = sitk.GetImageFromArray((100 + 2 * (23 - x) + 4 * (23 - y) + 8 * z).astype(np.float32))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "a.nii.gz"))
    thumbnail = draw_case(order(tmp_path / "a.nii.gz"), reader="SimpleITKIO", channels=["MRI"])
    found = {p.caption: pixels(p.jpeg) for p in thumbnail.pictures}
    assert set(found) == {"axial", "coronal", "sagittal"}
    for name, picture in found.items():
        top, bottom = picture[:20].mean(), picture[-20:].mean()
        left, right = picture[:, :20].mean(), picture[:, -20:].mean()
        assert top > bottom + 20, name  # front or head
        assert left > right + 5, name  # right side or front
        assert top - bottom > left - right, name


def test_upright_keeps_what_is_upright() -> None:
    image = np.arange(6).reshape(2, 3)
    assert (upright(image, "PL") == image).all()
    assert (upright(image, "SL") == image[::-1]).all()
    assert (upright(image, "LP") == image.T).all()


def test_pictures_in_2d_and_every_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for c in range(2):
        files.append(str(tmp_path / f"a_{c:04d}.png"))
        sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 255, (30, 40), np.uint8)), files[-1])
    case = Order(RawCase("a", tuple(files), None), True)
    thumbnail = draw_case(case, reader="NaturalImage2DIO", channels=["red", "green"])
    assert [p.caption for p in thumbnail.pictures] == ["red, image", "green, image"]
    assert pixels(thumbnail.pictures[0].jpeg).shape == pytest.approx((0.75 * LARGE, LARGE), abs=1)


def test_a_broken_case_is_named(tmp_path: Path) -> None:
    write_image(np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32), tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"x" * 50)
    orders = [Order(RawCase(n, (str(tmp_path / f"{n}.nii.gz"),), None), False) for n in ("good", "bad")]
    drawn, failed = draw_cases(orders, "SimpleITKIO", ["MRI"], 1)
    assert set(drawn) == {"good"}
    assert set(failed) == {"bad"}
    assert draw_cases([], "SimpleITKIO", ["MRI"], 1) == ({}, {})
