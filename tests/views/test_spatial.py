from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from nnssl.views import Geometry, flip, random_affine, random_flips, random_spatial
from nnssl.views.spatial import apply_affine


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_planes_follow_the_spacing() -> None:
    assert Geometry((8, 8, 8), (1.0, 1.0, 1.2)).planes() == [(0, 1), (0, 2), (1, 2)]
    assert Geometry((8, 64, 64), (10.0, 1.5, 1.5)).planes() == [(1, 2)]
    assert Geometry((64, 64), (1.5, 1.5)).planes() == [(0, 1)]


def test_flip_mirrors_exactly_what_is_recorded() -> None:
    x = torch.randn(3, 2, 4, 5, 6)
    flips = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    y = flip(x, flips)
    assert torch.equal(y[0], x[0].flip(1))
    assert torch.equal(y[1], x[1].flip((2, 3)))
    assert torch.equal(y[2], x[2])
    assert torch.equal(flip(y, flips), x)


def test_every_axis_is_flipped_half_of_the_time() -> None:
    share = random_flips(4000, 3, generator()).float().mean(0)
    assert (share - 0.5).abs().max() < 0.04


def test_thick_slices_are_never_mixed() -> None:
    geometry = Geometry((8, 32, 32), (10.0, 1.5, 1.5))
    matrices = random_affine(geometry, 200, generator(), p_rotation=1.0, p_scaling=0.0)
    assert torch.equal(matrices[:, 0, 1:], torch.zeros(200, 2))
    assert torch.equal(matrices[:, 1:, 0], torch.zeros(200, 2))
    assert matrices[:, 1, 2].abs().max() > 0.9, "in the plane any angle is allowed"


def test_thick_slices_are_not_interpolated() -> None:
    """Every slice of the result comes from the same slice of the crop, whatever was drawn."""
    geometry = Geometry((6, 16, 16), (8.0, 1.0, 1.0))
    levels = torch.arange(1.0, 7.0).view(1, 1, 6, 1, 1).expand(20, 1, 6, 16, 16).contiguous()
    matrices = random_affine(geometry, 20, generator(), p_rotation=1.0, p_scaling=1.0)
    assert (matrices[:, 1:, 1:].det().abs() - 1).abs().max() > 0.2, "but they are scaled in their plane"
    warped, known = apply_affine(levels, torch.ones_like(levels, dtype=torch.bool), matrices, geometry)
    assert known.any()
    assert torch.allclose(warped[known], levels[known], atol=1e-3)


def test_rotations_keep_lengths_and_scalings_stay_in_range() -> None:
    geometry = Geometry((8, 8, 8), (1.0, 1.0, 1.0))
    rotations = random_affine(geometry, 50, generator(), p_rotation=1.0, p_scaling=0.0)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    scales = 1 / random_affine(geometry, 500, generator(), 0.0, 1.0)[:, 0, 0]
    assert scales.min() >= 0.699
    assert scales.max() <= 1.401
    assert scales.max() > 1.3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (1.0, 2.0, 1.5)])
def test_warping_agrees_with_scipy_in_millimetres(spacing: tuple[float, ...]) -> None:
    geometry = Geometry((10, 14, 12), spacing)
    angle = 0.4
    matrix = torch.eye(3)
    matrix[1, 1] = matrix[2, 2] = math.cos(angle)
    matrix[1, 2], matrix[2, 1] = -math.sin(angle), math.sin(angle)
    matrix = matrix / 1.2
    x = torch.randn(1, 1, 10, 14, 12, generator=generator())
    warped, inside = apply_affine(x, torch.ones(1, 1, 10, 14, 12, dtype=torch.bool), matrix[None], geometry)

    s = np.diag(spacing)
    voxel = np.linalg.inv(s) @ matrix.numpy() @ s
    centre = (np.array(x.shape[2:]) - 1) / 2
    expected = affine_transform(x[0, 0].numpy(), voxel, offset=centre - voxel @ centre, order=1, cval=np.nan)
    valid = inside[0, 0].numpy() & np.isfinite(expected)
    assert valid.mean() > 0.4
    assert np.abs(warped[0, 0].numpy() - expected)[valid].max() < 1e-4
    assert (warped[0, 0].numpy()[~inside[0, 0].numpy()] == 0).all(), "what comes from outside must be zero"


def test_untouched_samples_pass_bit_for_bit() -> None:
    geometry = Geometry((8, 8, 8), (1.0, 1.0, 1.0))
    x = torch.randn(3, 1, 8, 8, 8)
    inside = torch.ones(3, 1, 8, 8, 8, dtype=torch.bool)
    matrices = torch.eye(3).repeat(3, 1, 1)
    matrices[1] *= 0.9
    y, _ = apply_affine(x, inside, matrices, geometry)
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[2], x[2])
    assert not torch.equal(y[1], x[1])


def test_padding_stays_known_as_padding() -> None:
    geometry = Geometry((16, 16), (1.0, 1.0))
    x = torch.ones(8, 1, 16, 16)
    inside = torch.zeros(8, 1, 16, 16, dtype=torch.bool)
    inside[..., 4:12, 4:12] = True
    y, known = random_spatial(x * inside, inside, geometry, generator(3), p_rotation=1.0, p_scaling=1.0)
    assert torch.allclose(y[known], torch.ones(int(known.sum())), atol=2e-3), "a padded voxel is taken for image"
