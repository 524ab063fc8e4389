from __future__ import annotations

import pytest
import torch

from nnssl.views import inside_box
from nnssl.views.noise import gaussian_noise, salt_and_pepper

SIZE = (30, 40)
INSIDE = inside_box(torch.tensor([[[0, 30], [0, 40]], [[0, 30], [10, 40]]]), SIZE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image() -> torch.Tensor:
    """Two samples, two channels of different range; the second sample has padding."""
    x = torch.randn(2, 2, *SIZE, generator=generator(9)) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1) + 5
    return x * INSIDE


@pytest.mark.parametrize("noise", [gaussian_noise, salt_and_pepper])
def test_noise_follows_from_the_generator_alone_and_spares_padding(noise: object) -> None:
    x = image()
    first, again, other = (noise(x, INSIDE, 0.3, generator(s)) for s in (0, 0, 1))  # type: ignore[operator]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first[1, :, :, :10] == 0).all()


def test_gaussian_noise_has_the_standard_deviation_asked_for() -> None:
    x = image()
    difference = (gaussian_noise(x, INSIDE, 0.5, generator()) - x)[INSIDE.expand_as(x)]
    assert difference.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(difference.mean().item()) < 0.03


def test_salt_and_pepper_are_the_image_s_own_extremes() -> None:
    x = image()
    noisy = salt_and_pepper(x, INSIDE, 0.2, generator())
    for b in range(2):
        for c in range(2):
            before, after = x[b, c][INSIDE[b, 0]], noisy[b, c][INSIDE[b, 0]]
            changed = after != before
            assert set(after[changed].tolist()) == {before.min().item(), before.max().item()}
            assert changed.float().mean().item() == pytest.approx(0.2, abs=0.04)
            assert (after[changed] == before.max()).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_padding_is_no_extreme() -> None:
    """An image of values between 3 and 4 in a crop padded with zeros has its minimum at 3."""
    x = (3 + torch.rand(2, 1, *SIZE, generator=generator(1))) * INSIDE
    noisy = salt_and_pepper(x, INSIDE, 0.5, generator())
    assert noisy[INSIDE].min() >= 3


def test_channels_are_disturbed_at_places_of_their_own() -> None:
    x = image()
    changed = salt_and_pepper(x, INSIDE, 0.2, generator()) != x
    assert not torch.equal(changed[:, 0], changed[:, 1])
