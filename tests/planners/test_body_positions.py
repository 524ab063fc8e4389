"""Body positions are drawn in little memory, and are those that a list of all body voxels would give."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from nnssl.planners.preprocess import BODY_POSITIONS, _body_positions


def of_a_list(mask: np.ndarray, box: list[list[int]], shape: tuple[int, ...]) -> np.ndarray:
    """As it was first written: all body voxels in one list."""
    cropped = mask[tuple(slice(*b) for b in box)]
    flat = np.flatnonzero(cropped)
    picked = np.random.default_rng(0).choice(flat, min(BODY_POSITIONS, flat.size), replace=False)
    positions = np.stack(np.unravel_index(np.sort(picked), cropped.shape), axis=1)
    scale = np.asarray(shape) / np.asarray(cropped.shape)
    return np.minimum(((positions + 0.5) * scale).astype(np.int32), np.asarray(shape, np.int32) - 1)


@pytest.mark.parametrize("size", [(7, 9, 11), (1, 60, 70), (30, 40, 50), (60, 70, 80)])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_the_same_positions_as_from_a_list(size: tuple[int, int, int], share: float) -> None:
    mask = np.random.default_rng(1).random(size) < share
    mask[size[0] // 2, :2] = True
    mask = mask.transpose(0, 2, 1)
    box = [[0, mask.shape[0]], [1, mask.shape[1]], [0, mask.shape[2] - 1]]
    shape = (5, 40, 200)
    found = _body_positions(mask, {"bbox_used_for_cropping": box}, shape)
    expected = of_a_list(mask, box, shape)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_no_body_no_positions() -> None:
    mask = np.zeros((4, 5, 6), bool)
    assert _body_positions(mask, {"bbox_used_for_cropping": [[0, 4], [0, 5], [0, 6]]}, (4, 5, 6)).shape == (0, 3)


def test_memory_does_not_grow_with_the_body() -> None:
    mask = np.ones((100, 200, 200), bool)
    tracemalloc.start()
    try:
        _body_positions(mask, {"bbox_used_for_cropping": [[0, 100], [0, 200], [0, 200]]}, mask.shape)
        assert tracemalloc.get_traced_memory()[1] < mask.size, "a list of all voxels takes 8 bytes each"
    finally:
        tracemalloc.stop()
