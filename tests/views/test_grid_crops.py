from __future__ import annotations

import itertools

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.views import Geometry
from nnssl.views.grid_crops import bounding_box, cut, divide, grid_cells, grid_overlap, random_places
from tests.oracles import volume_contrast as oracle


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("size", "spacing", "stride", "grid", "cells", "cell"),
    [
        ((16, 16, 16), (1, 1, 1), (4, 4, 4), 2, (2, 2, 2), (8, 8, 8)),
        ((40, 56, 40), (1, 1, 1), (8, 8, 8), 2, (2, 2, 2), (16, 24, 16)),  # 20 and 28 are no multiples of 8
        ((7, 160, 192), (10, 1.5, 1.5), (1, 32, 32), 2, (1, 2, 2), (7, 64, 96)),  # thick slices stay whole
        ((32, 128, 128), (1, 1, 1), (16, 16, 16), 2, (1, 2, 2), (32, 64, 64)),  # too short for two cells
        ((24, 30), (1, 1), (2, 2), 3, (3, 3), (8, 10)),
    ],
)
def test_divide(
    size: tuple, spacing: tuple, stride: tuple, grid: int, cells: tuple[int, ...], cell: tuple[int, ...]
) -> None:
    assert divide(Geometry(size, spacing), stride, grid) == (cells, cell)


def test_a_patch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(NnsslError, match="too small for 3 cells"):
        divide(Geometry((16, 16, 16), (1.0, 1.0, 1.0)), (4, 4, 4), 3)


@pytest.mark.parametrize(("size", "cells"), [((4, 6), (2, 3)), ((4, 6, 5), (2, 2, 1))])
def test_cells_tile_the_crop_in_row_major_order(size: tuple[int, ...], cells: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size)
    found = grid_cells(x, cells)
    cell = [n // k for n, k in zip(size, cells)]
    for index, position in enumerate(itertools.product(*(range(k) for k in cells))):
        where = (..., *(slice(p * n, (p + 1) * n) for p, n in zip(position, cell)))
        assert torch.equal(found[:, index], x[where])
    assert found.shape[1] == index + 1


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_cut_is_a_slice_of_every_sample(kind: torch.dtype) -> None:
    x = (torch.rand(3, 2, 5, 6, 7, generator=generator()) * 2).to(kind)
    low = torch.tensor([[0, 0, 0], [2, 3, 3], [1, 2, 0]])
    found = cut(x, low, (3, 3, 4))
    for b, (i, j, k) in enumerate(low.tolist()):
        assert torch.equal(found[b], x[b, :, i : i + 3, j : j + 3, k : k + 4])
    flat = cut(x[:, :, 0], low[:, 1:], (2, 4))
    assert torch.equal(flat[1], x[1, :, 0, 3:5, 3:7])


def test_bounding_box() -> None:
    mask = torch.zeros(3, 1, 5, 6, dtype=torch.bool)
    mask[0, 0, 1:4, 2] = True
    mask[1, 0, 0, 5] = mask[1, 0, 4, 3] = True
    assert bounding_box(mask).tolist() == [[[1, 4], [2, 3]], [[0, 5], [3, 6]], [[0, 5], [0, 6]]]


def test_places_are_inside_the_image_and_reach_all_of_it() -> None:
    box = torch.tensor([[[0, 6], [2, 7]]]).repeat(500, 1, 1)
    place = random_places(box, (3, 4), (6, 8), 2, generator())
    assert place.shape == (500, 2, 2)
    rows, columns = place[..., 0].flatten(), place[..., 1].flatten()
    assert set(rows.tolist()) == {0, 1, 2, 3}
    assert set(columns.tolist()) == {2, 3}
    assert (rows.bincount() / 1000 - 0.25).abs().max() < 0.06
    assert not torch.equal(place[:, 0], place[:, 1]), "queries of one crop have places of their own"


def test_an_image_smaller_than_the_crop_is_centred_as_far_as_possible() -> None:
    box = torch.tensor([[[3, 5]], [[0, 1]], [[9, 10]]])
    assert random_places(box, (4,), (10,), 1, generator()).flatten().tolist() == [2, 0, 6]


@pytest.mark.parametrize(("size", "cells"), [((3, 4), (2, 2)), ((2, 3, 4), (1, 3, 2)), ((4, 2, 2), (2, 2, 2))])
def test_overlap_is_a_share_of_voxels(size: tuple[int, ...], cells: tuple[int, ...]) -> None:
    places = list(itertools.product(*(range((k - 1) * n + 1) for n, k in zip(size, cells))))
    found = grid_overlap(torch.tensor([places]), size, cells)[0]
    expected = torch.tensor([oracle.grid_overlap(place, size, cells) for place in places])
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(len(places)))
