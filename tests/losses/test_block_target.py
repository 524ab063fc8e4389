from __future__ import annotations

import pytest
import torch

from nnssl.losses import block_statistics, normalise_blocks, restore_blocks
from tests.oracles import block_target as oracle


@pytest.mark.parametrize(("size", "block"), [((6, 8), (3, 2)), ((2, 4, 6), (1, 4, 3)), ((4, 4, 4), (4, 2, 4))])
def test_agrees_with_the_oracle(size: tuple[int, ...], block: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    image = 3 * torch.randn(2, 2, *size, generator=g) + 5
    inside = torch.rand(2, 1, *size, generator=g) < 0.7
    inside[0, 0, : block[0], : block[1]] = False  # blocks without an image voxel
    normalised = normalise_blocks(image, *block_statistics(image, inside, block, 0.5))
    expected = oracle.normalise_blocks(image.numpy(), inside.numpy(), block, 0.5)
    assert torch.allclose(normalised, torch.from_numpy(expected), atol=1e-4)


def test_answering_zero_costs_one() -> None:
    image = 7 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 100
    everywhere = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    target = normalise_blocks(image, *block_statistics(image, everywhere, (4, 4), 0.05))
    assert target.square().mean().item() == pytest.approx(1.0, rel=1e-4)


def test_brightness_and_contrast_of_a_block_do_not_count() -> None:
    image = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[..., 4:] = 5 * other[..., 4:] + 2
    everywhere = torch.ones(1, 1, 4, 8, dtype=torch.bool)
    first, second = (normalise_blocks(x, *block_statistics(x, everywhere, (4, 4), 0.05)) for x in (image, other))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_a_constant_block_is_zero_and_noise_is_not_blown_up(value: float) -> None:
    noise = 1e-3 * torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    constant = torch.full((1, 1, 4, 4), value)
    assert torch.equal(
        normalise_blocks(constant, *block_statistics(constant, everywhere, (4, 4), 0.05)), torch.zeros(1, 1, 4, 4)
    )
    noisy = normalise_blocks(noise, *block_statistics(noise, everywhere, (4, 4), 0.05))
    assert 0 < noisy.abs().max() < 0.1


def test_padding_has_no_effect() -> None:
    image = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    inside = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    inside[..., 3] = False
    other = torch.where(inside, image, torch.full_like(image, 1e4))
    assert all(
        torch.equal(a, b)
        for a, b in zip(block_statistics(image, inside, (4, 4), 0.05), block_statistics(other, inside, (4, 4), 0.05))
    )


def test_restoring_undoes_normalising() -> None:
    image = torch.randn(2, 2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(2, 1, 4, 6, 8, dtype=torch.bool)
    mean, std = block_statistics(image, everywhere, (2, 3, 4), 0.05)
    assert mean.shape == (2, 2, 2, 2, 2)
    assert torch.allclose(restore_blocks(normalise_blocks(image, mean, std), mean, std), image, atol=1e-5)
