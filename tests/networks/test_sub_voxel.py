from __future__ import annotations

import pytest
import torch

from nnssl.networks import spread_voxels


@pytest.mark.parametrize(("size", "factor"), [((2, 3, 4), (2, 2, 2)), ((3, 2, 2), (1, 2, 4)), ((4, 5), (2, 3))])
def test_voxel_k_of_a_position_is_its_kth_channel(size: tuple[int, ...], factor: tuple[int, ...]) -> None:
    voxels = torch.tensor(factor).prod()
    x = torch.randn(2, 3 * voxels, *size)
    out = spread_voxels(x, factor)
    assert out.shape == (2, 3, *(n * f for n, f in zip(size, factor)))
    for c in range(3):
        for k, place in enumerate(torch.cartesian_prod(*(torch.arange(f) for f in factor)).tolist()):
            every = tuple(slice(p, None, f) for p, f in zip(place, factor))
            assert torch.equal(out[:, c][(slice(None), *every)], x[:, c * voxels + k])


def test_as_torchs_in_a_square() -> None:
    x = torch.randn(2, 12, 3, 4)
    assert torch.equal(spread_voxels(x, (2, 2)), torch.nn.functional.pixel_shuffle(x, 2))


def test_nothing_to_do() -> None:
    x = torch.randn(1, 2, 3, 3)
    assert spread_voxels(x, (1, 1)) is x
