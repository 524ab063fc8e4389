from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nnssl.views import inside_box
from nnssl.views.turns import inside_every_mirroring, inside_every_turn, opposite_turns, quarter_turns, turns_in

ALL = [(0, 1), (0, 2), (1, 2)]


def test_turns_of_one_plane_and_of_three() -> None:
    assert turns_in([(1, 2)]) == [((1, 2), 0), ((1, 2), 1), ((1, 2), 2), ((1, 2), 3)]
    assert len(set(turns_in(ALL))) == 10


@pytest.mark.parametrize("planes", [[(1, 2)], ALL])
def test_turning_back_is_the_identity(planes: list[tuple[int, int]]) -> None:
    turns = turns_in(planes)
    x = torch.randn(len(turns), 2, 5, 5, 5)
    turned = quarter_turns(x, turns)
    assert torch.equal(quarter_turns(turned, opposite_turns(turns)), x)
    assert sum(torch.equal(a, b) for a, b in zip(turned, x)) == 1, "only the first class leaves a crop as it is"


def test_all_classes_look_different() -> None:
    x = torch.randn(1, 1, 4, 4, 4)
    turns = turns_in(ALL)
    seen = quarter_turns(x.expand(len(turns), 1, 4, 4, 4), turns)
    assert len({tuple(s.flatten().tolist()) for s in seen}) == len(turns)


def test_every_sample_turns_as_numpy_does() -> None:
    x = torch.randn(3, 2, 3, 4, 4)
    turned = quarter_turns(x, [((1, 2), k) for k in (3, 0, 1)])
    for row, source, k in zip(turned, x, (3, 0, 1)):
        assert np.array_equal(row.numpy(), np.rot90(source.numpy(), k, (2, 3)))


@pytest.mark.parametrize("planes", [[(1, 2)], [(0, 1), (0, 2)], ALL])
def test_what_stays_is_the_same_after_every_turn(planes: list[tuple[int, int]]) -> None:
    """Also after turns in sequence, and for masks that are no boxes."""
    mask = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.98
    stays = inside_every_turn(mask, planes)
    assert stays.any()
    assert not (stays & ~mask).any()
    for first, second in itertools.product(turns_in(planes), repeat=2):
        assert torch.equal(quarter_turns(quarter_turns(stays, [first] * 2), [second] * 2), stays)


def test_what_stays_is_as_large_as_can_be() -> None:
    stays = inside_every_turn(inside_box(torch.tensor([[[2, 40], [0, 35]]]), (40, 40)), [(0, 1)])
    assert torch.equal(stays, inside_box(torch.tensor([[[5, 35], [5, 35]]]), (40, 40)))


def test_an_image_beside_the_centre_leaves_nothing() -> None:
    assert not inside_every_turn(inside_box(torch.tensor([[[0, 5], [0, 10]]]), (10, 10)), [(0, 1)]).any()


def test_what_stays_is_the_same_after_every_mirroring() -> None:
    mask = inside_box(torch.tensor([[[1, 4], [0, 5], [2, 6]]]), (4, 5, 6))
    stays = inside_every_mirroring(mask, (1, 2))
    assert torch.equal(stays, inside_box(torch.tensor([[[1, 4], [0, 5], [2, 4]]]), (4, 5, 6)))
    assert torch.equal(
        inside_every_mirroring(mask, (0, 1)), inside_box(torch.tensor([[[1, 3], [0, 5], [2, 6]]]), (4, 5, 6))
    )
