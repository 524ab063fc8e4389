from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nnssl.views import Geometry, inside_box, random_intensity
from nnssl.views.intensity import apply_blur, apply_gamma

NOTHING: dict[str, Any] = {"p": 0.0, "p_blur": 0.0, "p_noise": 0.0}
SIZE = (6, 10, 12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(batch: int = 4, channels: int = 2, size: tuple[int, ...] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops; the last one has padding on one side."""
    box = torch.tensor([[[0, n] for n in size]] * batch)
    box[-1, -1, 0] = 4
    inside = inside_box(box, size)
    return torch.randn(batch, channels, *size, generator=generator(1)) * inside, inside


def values(x: torch.Tensor, inside: torch.Tensor, b: int, c: int) -> torch.Tensor:
    return x[b, c][inside[b, 0]]


def test_crops_for_which_nothing_is_drawn_pass_bit_for_bit() -> None:
    x, inside = crops()
    assert torch.equal(random_intensity(x, inside, generator(), **NOTHING), x)
    x, inside = crops(batch=64)
    same = (random_intensity(x, inside, generator(), p=0.2) == x).flatten(1).all(1)
    expected = 0.8**5  # contrast, brightness, gamma at 0.2, blur and noise at their default 0.2
    assert same.float().mean().item() == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("size", [SIZE, (10, 12)])
def test_padding_stays_zero_and_says_nothing(size: tuple[int, ...]) -> None:
    x, inside = crops(size=size)
    everything = {"p": 1.0, "p_blur": 1.0, "p_noise": 1.0}
    y = random_intensity(x, inside, generator(), **everything)
    assert (y[~inside.expand_as(y)] == 0).all()
    assert (y != x)[inside.expand_as(y)].float().mean() > 0.99
    dirty = torch.where(inside, x, 1000.0)
    assert torch.equal(random_intensity(dirty, inside, generator(), **everything), y)
    assert torch.isfinite(random_intensity(x, inside & False, generator(), **everything)).all()


def test_views_follow_from_the_generator_alone() -> None:
    x, inside = crops()
    torch.manual_seed(1)
    first = random_intensity(x, inside, generator(5), p=1.0, p_noise=1.0)
    torch.manual_seed(2)
    assert torch.equal(first, random_intensity(x, inside, generator(5), p=1.0, p_noise=1.0))
    assert not torch.equal(first, random_intensity(x, inside, generator(6), p=1.0, p_noise=1.0))


def test_contrast_and_brightness_are_a_straight_line_through_the_mean() -> None:
    x, inside = crops()
    y = random_intensity(x, inside, generator(), **{**NOTHING, "p": 1.0}, gamma=(1.0, 1.0), contrast=(0.65, 1.5))
    slopes = []
    for b in range(4):
        for c in range(2):
            before, after = values(x, inside, b, c).numpy(), values(y, inside, b, c).numpy()
            slope, _ = np.polyfit(before, after, 1)
            assert np.corrcoef(before, after)[0, 1] > 0.9999
            assert 0.64 < slope < 1.51
            assert abs(after.mean() - before.mean()) < 0.201, "contrast must turn about the mean"
            slopes.append(slope)
    assert len({round(s, 3) for s in slopes}) == 8, "every crop and channel draws its own strength"


@pytest.mark.parametrize("upside_down", [False, True])
def test_gamma_keeps_order_mean_and_spread(upside_down: bool) -> None:
    x, inside = crops(batch=2, channels=1)
    inverted = torch.full((2,), upside_down)
    y = apply_gamma(x, inside, torch.full((2, 1, 1, 1, 1), 1.5), inverted)
    for b in range(2):
        before, after = values(x, inside, b, 0).double(), values(y, inside, b, 0).double()
        assert torch.equal(before.argsort(), after.argsort())
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=1e-4)
        assert after.std().item() == pytest.approx(before.std().item(), abs=1e-3)
        unit = (before - before.min()) / (before.max() - before.min())
        bent = 1 - (1 - unit) ** 1.5 if upside_down else unit**1.5
        expected = (bent - bent.mean()) / bent.std() * before.std() + before.mean()
        assert (after - expected).abs().max() < 1e-3
    flat = torch.full_like(x, 2.0) * inside
    assert torch.equal(apply_gamma(flat, inside, torch.full((2, 1, 1, 1, 1), 1.5), inverted), flat)


def test_blur_agrees_with_scipy_where_there_is_no_padding() -> None:
    x, inside = torch.randn(2, 2, 9, 10, 11, generator=generator()), torch.ones(2, 1, 9, 10, 11, dtype=torch.bool)
    sigma = torch.tensor([[0.5, 0.7], [1.0, 0.9]])
    y = apply_blur(x, inside, sigma, [0, 1, 2])
    for b, c in np.ndindex(2, 2):
        options = {"sigma": float(sigma[b, c]), "mode": "constant", "radius": 3}
        one = gaussian_filter(np.ones((9, 10, 11)), **options)
        assert np.abs(y[b, c].numpy() - gaussian_filter(x[b, c].double().numpy(), **options) / one).max() < 1e-5


def test_a_flat_image_stays_flat_up_to_its_border() -> None:
    _, inside = crops(channels=1)
    y = apply_blur(inside.float(), inside, torch.ones(4, 1), [0, 1, 2])
    assert torch.allclose(y, inside.float(), atol=1e-5)


def test_thick_slices_are_not_blurred_into_each_other() -> None:
    x = torch.zeros(1, 1, *SIZE)
    x[:, :, 3] = torch.randn(SIZE[1:], generator=generator())
    inside = torch.ones(1, 1, *SIZE, dtype=torch.bool)
    options = {**NOTHING, "p_blur": 1.0}
    thick = random_intensity(x, inside, generator(), **options, geometry=Geometry(SIZE, (5.0, 1.0, 1.0)))
    assert (thick[:, :, [0, 1, 2, 4, 5]] == 0).all()
    assert not torch.equal(thick, x)
    assert (random_intensity(x, inside, generator(), **options)[:, :, 2] != 0).any()


def test_noise_has_at_most_the_spread_that_was_asked_for() -> None:
    x, inside = torch.zeros(200, 1, 20, 20), torch.ones(200, 1, 20, 20, dtype=torch.bool)
    spread = random_intensity(x, inside, generator(), **{**NOTHING, "p_noise": 1.0}, noise=0.4).flatten(1).std(1)
    assert spread.max() < 0.45
    assert spread.mean().item() == pytest.approx(0.2, abs=0.03)
