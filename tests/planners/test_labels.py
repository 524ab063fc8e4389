"""Labels that do not say what dataset.json says, or lie elsewhere than their images, are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnssl.planners.labels import check_label, named_values
from nnssl.planners.measure import Measurement, measure_case
from nnssl.planners.outliers import find_outliers
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnssl.data.folders import RawCase
from nnssl.data.parallel import Failure
from nnssl.errors import NnsslError
from tests.conftest import blobs, write_image

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}


@pytest.fixture
def case(tmp_path: Path) -> RawCase:
    image, label = blobs(np.random.default_rng(0), (18, 20, 22))
    write_image(image, tmp_path / "a_0000.nii.gz")
    write_image(label, tmp_path / "a.nii.gz")
    return RawCase("a", (str(tmp_path / "a_0000.nii.gz"),), str(tmp_path / "a.nii.gz"))


def measured(case: RawCase, named: frozenset[int] | None, reader: type = SimpleITKIO) -> Measurement:
    return measure_case(case, reader=reader, channel_names=["MRI"], samples=100, named=named)


def test_all_values_of_regions_and_the_ignore_label_are_named() -> None:
    assert named_values({"labels": REGIONS}) == {0, 1, 2, 3, 4}
    for wrong in ("1", True, [1, "2"], 1.5, None):
        with pytest.raises(NnsslError, match="'tumour'"):
            named_values({"labels": {"background": 0, "tumour": wrong}})


def test_a_value_without_a_name_is_a_failure_that_names_it(case: RawCase) -> None:
    assert measured(case, frozenset({0, 1, 2})).facts.misplaced == ""
    with pytest.raises(Failure, match=r"label holds 2, .* does not name .*it names 0, 1\)"):
        measured(case, frozenset({0, 1}))
    measured(case, None)  # without classes labels say nothing


@pytest.mark.parametrize("values", [[-1.0], [0.5], [float("nan")], [1.0, 7.0]])
def test_odd_values(values: list[float]) -> None:
    seg = np.zeros((1, 4, 4, 4), np.float32)
    seg.flat[: len(values)] = values
    with pytest.raises(Failure, match=f"{values[-1]:g}, which"):
        check_label(seg, {"spacing": (1, 1, 1)}, (4, 4, 4), {"spacing": (1, 1, 1)}, frozenset({0, 1}))


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
@pytest.mark.parametrize("what", ["spacing", "origin", "direction"])
def test_a_label_that_lies_elsewhere_is_remarked(case: RawCase, what: str, reader: type) -> None:
    label = sitk.ReadImage(str(case.label))
    changes = {"spacing": (1, 1, 3), "origin": (0, 0, 5), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
    getattr(label, f"Set{what.capitalize()}")(changes[what])
    sitk.WriteImage(label, str(case.label))
    facts = measured(case, frozenset({0, 1, 2}), reader).facts
    remarks = find_outliers({"a": facts}, ["MRI"])
    assert list(remarks) == ["a"]
    if reader is SimpleITKIO:
        assert f"differ in {what}" in remarks["a"][0]


def test_rounding_in_headers_is_no_difference(case: RawCase) -> None:
    label = sitk.ReadImage(str(case.label))
    label.SetOrigin((0, 1e-5, -1e-6))
    sitk.WriteImage(label, str(case.label))
    assert measured(case, frozenset({0, 1, 2})).facts.misplaced == ""


def test_every_ct_channel_is_judged_by_its_own_file(tmp_path: Path) -> None:
    """A second channel that is a picture of 8 bits, beside a CT of 16."""
    image = np.random.default_rng(0).integers(-900, 1200, (18, 20, 22)).astype(np.int16)
    write_image(image, tmp_path / "a_0000.nii.gz")
    picture = np.random.default_rng(1).integers(0, 200, (18, 20, 22)).astype(np.uint8)
    write_image(picture, tmp_path / "a_0001.nii.gz")
    files = tuple(str(tmp_path / f"a_000{c}.nii.gz") for c in (0, 1))
    facts = measure_case(
        RawCase("a", files, None), reader=SimpleITKIO, channel_names=["CT", "CT"], samples=100, named=None
    ).facts
    assert "stored as uint8" in facts.not_hounsfield
    assert facts.dtype == "int16"
