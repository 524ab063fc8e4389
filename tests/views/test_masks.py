from __future__ import annotations

import pytest
import torch

from nnssl.views import expand_blocks, inside_box, random_block_mask, random_box_mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.6, 0.95])
def test_every_sample_keeps_the_same_number_of_blocks(ratio: float) -> None:
    mask = random_block_mask(16, (3, 4, 5), ratio, generator())
    counts = mask.flatten(1).sum(1)
    assert (counts == round(60 * (1 - ratio))).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 16, "samples must not share a mask"


def test_at_least_one_block_is_visible_and_one_hidden() -> None:
    for ratio in (0.001, 0.999):
        visible = random_block_mask(4, (2, 2), ratio, generator()).flatten(1).sum(1)
        assert ((visible >= 1) & (visible <= 3)).all()


def test_every_block_is_hidden_equally_often() -> None:
    share = random_block_mask(4000, (2, 3), 0.5, generator()).float().mean(0)
    assert (share - 0.5).abs().max() < 0.04


def test_masks_follow_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = random_block_mask(2, (4, 4), 0.5, generator(7))
    torch.manual_seed(2)
    assert torch.equal(first, random_block_mask(2, (4, 4), 0.5, generator(7)))
    assert not torch.equal(first, random_block_mask(2, (4, 4), 0.5, generator(8)))


def test_expanded_blocks_are_where_the_grid_says() -> None:
    grid = torch.zeros(1, 1, 2, 3, 2, dtype=torch.bool)
    grid[0, 0, 1, 2, 0] = True
    voxels = expand_blocks(grid, (2, 4, 3))
    assert voxels.shape == (1, 1, 4, 12, 6)
    assert voxels.sum() == 2 * 4 * 3
    assert voxels[0, 0, 2:, 8:, :3].all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.33])
def test_a_box_hides_its_share_and_is_one_box(share: float) -> None:
    mask = random_box_mask(8, (40, 60), share, generator())
    for hidden in ~mask[:, 0]:
        rows, columns = hidden.any(1).nonzero().flatten(), hidden.any(0).nonzero().flatten()
        assert hidden.sum() == len(rows) * len(columns), "not a box"
        assert int(rows[-1] - rows[0]) + 1 == len(rows)
        assert hidden.float().mean().item() == pytest.approx(share, rel=0.15)


def test_boxes_reach_every_corner() -> None:
    hidden = (~random_box_mask(600, (6, 6), 0.2, generator())).any(0)[0]
    assert hidden.all()


def test_a_box_in_three_dimensions_lies_where_it_says() -> None:
    """Three crops of three axes, none of the same length, against slices of plain Python."""
    size = (5, 4, 3)
    box = torch.tensor([[[0, 5], [0, 4], [0, 3]], [[1, 3], [2, 4], [1, 2]], [[0, 4], [1, 2], [0, 3]]])
    inside = inside_box(box, size)
    expected = torch.zeros(3, 1, *size, dtype=torch.bool)
    for one, edges in zip(expected, box.tolist()):
        one[(0, *(slice(*edge) for edge in edges))] = True
    assert inside.shape == expected.shape
    assert torch.equal(inside, expected)


def test_one_crop_of_two_axes() -> None:
    inside = inside_box(torch.tensor([[[0, 4], [1, 3]]]), (4, 5))
    assert inside.shape == (1, 1, 4, 5)
    assert inside[0, 0, :, 1:3].all()
    assert inside.sum() == 4 * 2


def test_the_smallest_box_is_a_voxel() -> None:
    mask = random_box_mask(5, (2, 3, 4), 1e-4, generator())
    assert mask.shape == (5, 1, 2, 3, 4)
    assert (~mask).flatten(1).sum(1).tolist() == [1] * 5


def test_two_blocks_are_enough_and_one_is_not() -> None:
    assert random_block_mask(3, (1, 2), 0.5, generator()).flatten(1).sum(1).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"\(1, 1\) has nothing to choose from"):
        random_block_mask(3, (1, 1), 0.5, generator())
