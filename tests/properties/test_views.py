"""Masks, boxes and movements of crops: exact counts, and what is moved comes back."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from nnssl.views import Geometry, expand_blocks, inside_box, random_block_mask, random_box_mask
from nnssl.views.boxes import box_masks, random_boxes
from nnssl.views.masks import visible_count
from nnssl.views.resized_crop import small_size
from nnssl.views.spatial import apply_affine, flip, random_affine
from nnssl.views.turns import inside_every_turn, opposite_turns, quarter_turns, turns_in

RATIOS = st.floats(1e-9, 1 - 1e-9)
GRIDS = st.one_of(*[st.tuples(*[st.integers(1, 5)] * dim) for dim in (2, 3)])
SPACINGS = st.sampled_from([0.3, 0.5, 1.0, 1.4, 1.5, 3.0, 10.0])
SEEDS = st.integers(0, 2**62)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=draw(seed))


@given(grid=GRIDS.filter(lambda g: prod(g) > 1), ratio=RATIOS, batch=st.integers(1, 4), seed=SEEDS, data=st.data())
def test_a_mask_hides_what_was_asked_for(
    grid: tuple[int, ...], ratio: float, batch: int, seed: int, data: st.DataObject
) -> None:
    """To the nearest whole block in every sample, and never all or nothing; of voxels, so many blocks' worth."""
    mask = random_block_mask(batch, grid, ratio, draw(seed))
    n = prod(grid)
    counts = set(mask.flatten(1).sum(1).tolist())
    assert counts == {visible_count(n, ratio)}
    (count,) = counts
    assert 1 <= count <= n - 1
    assert abs(count - n * (1 - ratio)) <= 0.5 + 1e-9 or count in (1, n - 1)
    block = data.draw(st.tuples(*[st.integers(1, 3)] * len(grid)))
    voxels = expand_blocks(mask, block)
    assert voxels.shape[2:] == tuple(g * b for g, b in zip(grid, block))
    assert set(voxels.flatten(1).sum(1).tolist()) == {count * prod(block)}


@given(size=GRIDS, share=st.floats(0.01, 0.99), seed=SEEDS)
def test_one_box_is_hidden(size: tuple[int, ...], share: float, seed: int) -> None:
    for hidden in ~random_box_mask(3, size, share, draw(seed))[:, 0]:
        places = hidden.nonzero()
        assert len(places) >= 1
        extent = places.max(0).values - places.min(0).values + 1
        assert int(extent.prod()) == len(places), "no box"


@given(size=GRIDS, low=st.floats(0, 1), high=st.floats(0, 1), seed=SEEDS)
def test_boxes_lie_in_the_crop_and_masks_are_these_boxes(
    size: tuple[int, ...], low: float, high: float, seed: int
) -> None:
    boxes = random_boxes(2, 3, size, (min(low, high), max(low, high)), draw(seed))
    assert (boxes[..., 0] >= 0).all() and (boxes[..., 1] <= torch.tensor(size)).all()
    assert (boxes[..., 1] - boxes[..., 0] >= 1).all()
    for k, mask in enumerate(box_masks(boxes, size)):
        assert torch.equal(mask, inside_box(boxes[:, k], size))


@given(size=GRIDS, seed=SEEDS, data=st.data())
def test_mirroring_twice_is_nothing(size: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    flips = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=len(size), max_size=len(size)), min_size=2, max_size=2))
    )
    x = image(seed, 2, 1, *size)
    assert torch.equal(flip(flip(x, flips), flips), x)


@given(dim=st.sampled_from([2, 3]), edge=st.integers(1, 6), seed=SEEDS, data=st.data())
def test_quarter_turns_come_back(dim: int, edge: int, seed: int, data: st.DataObject) -> None:
    planes = Geometry((edge,) * dim, (1.0,) * dim).planes()
    turns = data.draw(st.lists(st.sampled_from(turns_in(planes)), min_size=2, max_size=2))
    x = image(seed, 2, 1, *[edge] * dim)
    assert torch.equal(quarter_turns(quarter_turns(x, turns), opposite_turns(turns)), x)
    left = inside_every_turn(x > 0, planes)
    assert not (left & ~(x > 0)).any()
    assert torch.equal(quarter_turns(left, turns), left)


@given(size=GRIDS.filter(lambda g: min(g) > 1), seed=SEEDS, data=st.data())
def test_an_affine_map_that_mirrors_mirrors(size: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    """Against the exact operation, for any size and spacing: the conventions of axes and centres agree."""
    spacing = data.draw(st.tuples(*[SPACINGS] * len(size)))
    mirrored = data.draw(st.lists(st.booleans(), min_size=len(size), max_size=len(size)))
    x, inside = image(seed, 1, 1, *size), torch.ones(1, 1, *size, dtype=torch.bool)
    matrix = torch.diag(torch.tensor([-1.0 if m else 1.0 for m in mirrored]))[None]
    moved, where = apply_affine(x, inside, matrix, Geometry(size, spacing))
    assert where.all()
    torch.testing.assert_close(moved, flip(x, torch.tensor([mirrored])), atol=1e-5, rtol=1e-4)


@given(size=GRIDS.filter(lambda g: min(g) > 1), p=st.floats(0, 1), seed=SEEDS, data=st.data())
def test_affine_maps_respect_thick_slices(size: tuple[int, ...], p: float, seed: int, data: st.DataObject) -> None:
    """A map can be undone, mixes only axes of like spacing, and leaves thick slices where they are."""
    geometry = Geometry(size, data.draw(st.tuples(*[SPACINGS] * len(size))))
    for matrix in random_affine(geometry, 3, draw(seed), p, p):
        assert torch.linalg.det(matrix).abs() > 0.1
        for a in range(geometry.dim):
            for b in range(geometry.dim):
                if a != b and not geometry.planes():
                    assert matrix[a, b] == 0
        for axis in geometry.thick_axes():
            unit = torch.zeros(geometry.dim)
            unit[axis] = 1
            assert torch.equal(matrix[axis], unit) and torch.equal(matrix[:, axis], unit)


@given(grid=GRIDS, edge=st.floats(0.01, 1), data=st.data())
def test_small_views_fit_the_network(grid: tuple[int, ...], edge: float, data: st.DataObject) -> None:
    stride = data.draw(st.tuples(*[st.sampled_from([1, 2, 4, 8])] * len(grid)))
    geometry = Geometry(tuple(g * s for g, s in zip(grid, stride)), data.draw(st.tuples(*[SPACINGS] * len(grid))))
    size = small_size(geometry, stride, edge)
    assert all(n % s == 0 and 1 <= n <= whole for n, s, whole in zip(size, stride, geometry.patch_size))
