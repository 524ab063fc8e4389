"""Metrics on shapes whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnssl.evaluate.metrics import case_metrics

LABELS: dict[str, int | tuple[int, ...]] = {"one": 1, "two": 2, "both": (1, 2)}


def box(shift: int = 0, value: int = 1, shape: tuple[int, ...] = (20, 40, 40), axis: int = 1) -> np.ndarray:
    image = np.zeros(shape, np.uint8)
    edges = [slice(5, 15) if n == 20 else slice(0, 1) if n == 1 else slice(10, 30) for n in shape]
    edges[axis] = slice(edges[axis].start + shift, edges[axis].stop + shift)
    image[tuple(edges)] = value
    return image


def test_a_perfect_answer() -> None:
    found = case_metrics(box(), box(), (3, 1, 2), LABELS)
    assert found["one"] == {"dice": 1, "iou": 1, "hd95": 0, "nsd": 1}
    assert found["both"]["dice"] == 1
    assert all(math.isnan(v) for v in found["two"].values())


def test_overlap_of_a_shifted_box() -> None:
    found = case_metrics(box(5), box(), (1, 1, 1), LABELS)["one"]
    assert found["dice"] == pytest.approx(15 / 20)
    assert found["iou"] == pytest.approx(15 / 25)


@pytest.mark.parametrize(
    "axis,spacing,expected", [(0, (5.0, 1.0, 1.0), 10.0), (1, (5.0, 1.5, 1.0), 3.0), (2, (5.0, 1.0, 0.5), 1.0)]
)
def test_distances_are_in_millimetres_along_each_axis(axis: int, spacing: tuple, expected: float) -> None:
    found = case_metrics(box(2, axis=axis), box(), spacing, LABELS)["one"]
    assert found["hd95"] == pytest.approx(expected)


def test_surface_dice_counts_what_is_within_the_tolerance() -> None:
    """Shifted by 2 mm: all within 2 mm; within 1 mm about the four of six faces that slide along themselves."""
    wide = case_metrics(box(2), box(), (1, 1, 1), LABELS, tolerance=2.0)["one"]["nsd"]
    tight = case_metrics(box(2), box(), (1, 1, 1), LABELS, tolerance=1.0)["one"]["nsd"]
    assert wide == pytest.approx(1)
    assert 0.5 < tight < 0.9


def test_a_label_in_one_image_only() -> None:
    missed = case_metrics(np.zeros_like(box()), box(), (1, 1, 1), LABELS)["one"]
    invented = case_metrics(box(), np.zeros_like(box()), (1, 1, 1), LABELS)["one"]
    for found in (missed, invented):
        assert (found["dice"], found["iou"], found["nsd"]) == (0, 0, 0)
        assert math.isnan(found["hd95"])


def test_one_slice_is_an_image_of_two_axes() -> None:
    flat = case_metrics(box(2, shape=(1, 40, 40)), box(shape=(1, 40, 40)), (999, 1, 1), LABELS)["one"]
    assert flat["hd95"] == pytest.approx(2)


def test_ignored_voxels_do_not_count() -> None:
    reference = box()
    reference[:, :, 30:] = 9
    prediction = box()
    prediction[:, :, 30:] = 1
    assert case_metrics(prediction, reference, (1, 1, 1), LABELS, ignore=9)["one"]["dice"] == 1
    assert case_metrics(prediction, reference, (1, 1, 1), LABELS)["one"]["dice"] < 1


def test_images_of_different_size_are_no_pair() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        case_metrics(box(), box()[:-1], (1, 1, 1), LABELS)
