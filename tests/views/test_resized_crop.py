from __future__ import annotations

import pytest
import torch

from nnssl.views import Geometry, random_resized_crop, small_size

ISOTROPIC = Geometry((12, 16, 20), (1.0, 1.0, 1.0))
THICK = Geometry((6, 16, 20), (8.0, 1.5, 1.5))
FLAT = Geometry((16, 20), (1.0, 1.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(geometry: Geometry, batch: int = 4) -> torch.Tensor:
    return torch.tensor([[[0, n] for n in geometry.patch_size]] * batch)


def ramps(geometry: Geometry, batch: int = 4) -> torch.Tensor:
    """(B, dim, *spatial): channel a holds the voxel's position along axis a."""
    grids = torch.meshgrid(*(torch.arange(n) + 0.5 for n in geometry.patch_size), indexing="ij")
    return torch.stack(grids).expand(batch, -1, *geometry.patch_size).contiguous()


@pytest.mark.parametrize("geometry", [ISOTROPIC, THICK, FLAT])
def test_the_whole_crop_without_changes_is_the_crop(geometry: Geometry) -> None:
    x = torch.randn(4, 2, *geometry.patch_size)
    view, inside = random_resized_crop(x, whole(geometry), geometry, seeded(), share=(1, 1), p_flip=0, p_rotation=0)
    assert torch.allclose(view, x, atol=1e-4)
    assert inside.all()


@pytest.mark.parametrize("geometry", [ISOTROPIC, THICK, FLAT])
def test_mirroring_is_exact(geometry: Geometry) -> None:
    x = torch.randn(4, 1, *geometry.patch_size)
    view, _ = random_resized_crop(x, whole(geometry), geometry, seeded(), share=(1, 1), p_flip=1, p_rotation=0)
    assert torch.allclose(view, x.flip(tuple(range(2, x.ndim))), atol=1e-4)


@pytest.mark.parametrize("geometry", [ISOTROPIC, FLAT])
def test_views_show_the_share_that_was_asked_for(geometry: Geometry) -> None:
    share = 0.3
    view, inside = random_resized_crop(
        ramps(geometry), whole(geometry), geometry, seeded(), share=(share, share), p_flip=0, p_rotation=0
    )
    assert inside.all(), "boxes lie inside the image"
    factor = share ** (1 / geometry.dim)
    for axis, n in enumerate(geometry.patch_size):
        along = view[:, axis].movedim(axis + 1, 1).flatten(2)[:, :, 0]
        step = (along[:, -1] - along[:, 0]) / (n - 1)
        assert torch.allclose(step, torch.full_like(step, factor), atol=1e-3), "zoom"
        assert along[:, 0].std() > 0, "every view has its own place"


def test_thick_slices_are_neither_zoomed_nor_mixed() -> None:
    x = ramps(THICK)
    view, _ = random_resized_crop(x, whole(THICK), THICK, seeded(), share=(0.3, 0.3), p_flip=0, p_rotation=1)
    slices = view[:, 0].flatten(2)
    expected = x[:, 0].flatten(2)
    shown = slices != 0
    assert torch.allclose(slices[shown], expected[shown], atol=1e-3)


def test_what_lies_beyond_the_image_is_zero_and_not_inside() -> None:
    box = torch.tensor([[[0, 16], [0, 8]]] * 4)
    x = torch.ones(4, 1, 16, 20)
    x[..., 8:] = 7.0  # padding is zero in real crops; a value shows whether it is used
    view, inside = random_resized_crop(x, box, FLAT, seeded(), share=(0.8, 0.8))
    assert (view[~inside] == 0).all()
    assert torch.allclose(view[inside], torch.ones(()), atol=1e-3)
    assert inside.any() and not inside.all()


def test_a_seed_repeats_and_samples_differ() -> None:
    x = torch.randn(2, 1, 16, 20)
    x[1] = x[0]
    first, again = (random_resized_crop(x, whole(FLAT, 2), FLAT, seeded(3))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])


def test_small_views_keep_more_than_one_position_of_the_deepest_stage() -> None:
    assert small_size(Geometry((64, 64, 64), (1, 1, 1)), (16, 16, 16), 0.4) == (32, 32, 32)
    assert small_size(Geometry((40, 56, 40), (1, 1, 1)), (8, 8, 8), 0.43) == (16, 24, 16)
    assert small_size(Geometry((16, 16, 16), (1, 1, 1)), (8, 8, 8), 0.1) == (16, 16, 16)
    assert small_size(THICK, (1, 4, 4), 0.5) == (6, 8, 8), "thick slices are all kept"
    view, _ = random_resized_crop(torch.randn(2, 1, 16, 20), whole(FLAT, 2), FLAT, seeded(), size=(8, 12))
    assert view.shape == (2, 1, 8, 12)
