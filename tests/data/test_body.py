from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnssl.data.body import body_mask
from nnssl.data.ct_body import ball
from tests.conftest import real_data

SPACING = (5.0, 4.0, 4.0)
SHAPE = (24, 96, 96)


def ellipse(centre: tuple[float, float], axes: tuple[float, float], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A cylinder along Z over an ellipse; centre and half axes (Y, X) in mm."""
    y, x = np.meshgrid(np.arange(shape[1]) * SPACING[1], np.arange(shape[2]) * SPACING[2], indexing="ij")
    inside = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 <= 1
    return np.broadcast_to(inside, shape).copy()


def trunk() -> tuple[np.ndarray, np.ndarray]:
    """A chest with lungs cut by both end slices, closed bowel gas, and the room's air; HU and the body."""
    rng = np.random.default_rng(0)
    body = ellipse((180, 190), (100, 150))
    lungs = ellipse((180, 120), (70, 50)) | ellipse((180, 260), (70, 50))
    gas = ellipse((120, 190), (16, 16))
    gas[:10] = gas[14:] = False
    image = np.where(body, np.where(lungs, -850.0, np.where(gas, -1000.0, 40.0)), -1000.0)
    return image + rng.normal(0, 15, SHAPE), body


def mask_of(image: np.ndarray, spacing: tuple[float, ...] | None = SPACING) -> np.ndarray:
    return body_mask(image[None].astype(np.float32), ["CT"], spacing)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Dice."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_lungs_and_bowel_gas_are_inside_and_the_room_is_not() -> None:
    image, body = trunk()
    found = mask_of(image)
    assert agreement(found, body) > 0.995
    assert not found[:, :5].any()


def test_a_thinner_sampling_draws_the_skin_where_the_voxels_say() -> None:
    image, body = trunk()
    fine = [np.repeat(np.repeat(a, 3, 1), 3, 2) for a in (image, body)]
    found = mask_of(fine[0], (5.0, 4 / 3, 4 / 3))
    assert agreement(found, fine[1]) > 0.99


@pytest.mark.parametrize(("gap", "left"), [(0, 0.2), (12, 0.01)])
def test_the_table_is_not_the_body(gap: int, left: float) -> None:
    """A shell of 4 mm, curved and hollow, apart from the back or touching it (then a voxel along the skin is left)."""
    image, body = trunk()
    y, x = np.meshgrid(np.arange(96) * 4.0, np.arange(96) * 4.0, indexing="ij")
    line = 280 + gap - ((x - 190) / 40) ** 2
    shell = (np.abs(y - line) < 2.1) | (np.abs(y - line - 60) < 2.1)
    shell = np.broadcast_to(shell & (np.abs(x - 190) < 170), SHAPE) & ~body
    assert shell.sum() > 3000
    image[shell] = 300
    found = mask_of(image)
    assert agreement(found, body) > 0.98
    assert found[shell].mean() < left


def test_two_legs_are_kept_and_a_rail_is_not() -> None:
    legs = ellipse((150, 110), (60, 60)) | ellipse((160, 270), (35, 40))
    rail = ellipse((300, 200), (8, 40))
    image = np.where(legs | rail, 30.0, -1000.0)
    found = mask_of(image)
    assert agreement(found, legs) > 0.99
    assert not found[rail].any()


def test_lung_is_inside_where_the_windpipe_or_the_edge_of_the_image_opens_it() -> None:
    image, body = trunk()
    image[:, :, 62:68][:, 40:44] = -1000  # a channel from the right lung out to the right face
    image[:, 40:44, 62:] = -1000
    found = mask_of(image)
    assert found[:, 45, 60:70].all()
    cut = trunk()[0][:, :, :30]  # through the middle of the left lung
    assert agreement(mask_of(cut), body[:, :, :30]) > 0.98


@pytest.mark.parametrize("padding", [-3024.0, -2000.0, -1024.0])
def test_padding_is_air_and_metal_is_body(padding: float) -> None:
    image, body = trunk()
    outside = ~ellipse((180, 190), (170, 170))
    image[outside] = padding
    image[:, 50:53, 45:48] = 3071
    found = mask_of(image)
    assert agreement(found, body) > 0.995
    assert not found[outside].any()
    assert found[:, 50:53, 45:48].all()


def test_a_frame_of_zeros_is_padding_not_water() -> None:
    image, body = trunk()
    outside = ~ellipse((180, 190), (170, 170))
    image[outside] = 0
    assert agreement(mask_of(image), body) > 0.98


def test_the_body_of_an_export_through_a_window() -> None:
    image, body = trunk()
    assert agreement(mask_of(np.clip(image, -160, 240)), body) > 0.97


def test_offset_values_are_judged_by_contrast() -> None:
    image, body = trunk()
    assert agreement(mask_of(image + 1024), body) > 0.98


def test_crops_from_inside_are_body_all_over() -> None:
    rng = np.random.default_rng(0)
    assert mask_of(rng.normal(50, 20, (20, 40, 40))).all()
    lung = rng.normal(-850, 60, (20, 40, 40))
    lung[:, 18:22, 18:22] = 40  # a vessel
    assert mask_of(lung).all()


def test_a_head_is_found_with_skull_and_sinuses() -> None:
    grid = np.stack(np.meshgrid(*(np.arange(60) * 4.0 for _ in range(3)), indexing="ij"), -1)
    distance = np.linalg.norm(grid - 118, axis=-1)
    image = np.where(distance < 100, 30.0, -1000.0)
    image[(distance > 85) & (distance < 95)] = 1200
    image[np.linalg.norm(grid - [118, 60, 118], axis=-1) < 14] = -990
    assert agreement(mask_of(image, (4.0, 4.0, 4.0)), distance < 100) > 0.995


def test_one_slice_and_no_spacing() -> None:
    image, body = trunk()
    assert agreement(mask_of(image[:1]), body[:1]) > 0.99
    assert agreement(mask_of(image, None), body) > 0.98


def test_another_order_of_axes_finds_the_same_body() -> None:
    image, _ = trunk()
    image[:4] = image[-4:] = -1000  # lungs closed at both ends, so that no axis is special
    lungs = image[4:-4, 45, 30]
    assert lungs.mean() < -800
    image[4:6] = image[-6:-4] = np.where(image[4:6] > -900, 40, image[4:6])
    found = mask_of(image)
    turned = mask_of(image.transpose(2, 0, 1), (4.0, 5.0, 4.0))
    assert agreement(found, turned.transpose(1, 2, 0)) > 0.99
    assert found[6:-6, 45, 30].all()


def test_where_there_is_ct_another_channel_does_not_blur_the_body() -> None:
    image, body = trunk()
    pet = ndimage.gaussian_filter(body.astype(np.float32), 4)
    found = body_mask(np.stack([pet, image]).astype(np.float32), ["PET", "CT"], SPACING)
    assert (found == mask_of(image)).all()
    assert body_mask(pet[None], ["PET"], SPACING).sum() > 1.05 * found.sum()


def test_body_is_never_empty() -> None:
    for value in (-2000.0, -1000.0, 0.0):
        assert body_mask(np.full((1, 8, 8, 8), value), ["CT"]).all()
    bar = np.full((1, 10, 40, 40), -1000.0)
    bar[:, :, 20, 5:35] = 100
    assert body_mask(bar, ["CT"], (1, 1, 1)).any()


def test_a_ball_is_as_wide_as_its_millimetres() -> None:
    assert ball(6, (5, 4, 4)).shape == (3, 3, 3)
    assert ball(6, (8, 2, 2)).shape == (1, 7, 7)
    assert ball(6, (1, 1, 1)).sum() == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)


def sphere(shape: tuple[int, ...] = (20, 40, 40), radius: float = 12) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ((grid - np.array(shape) / 2) ** 2).sum(-1) < radius**2


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_body_of_an_mr_is_found_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    there = sphere()
    image = np.where(there, rng.normal(100, 25, there.shape), np.abs(rng.normal(0, 4, there.shape)))
    found = body_mask(scale * image[None], ["MRI"])
    assert (found == there).mean() > 0.98


def test_an_mr_crop_from_inside_the_body_is_body_all_over() -> None:
    image = np.random.default_rng(0).normal(100, 25, (20, 40, 40))
    assert body_mask(image[None], ["MRI"]).mean() > 0.99


@pytest.mark.data
def test_body_of_real_cardiac_mr_is_neither_all_nor_nothing() -> None:
    import SimpleITK as sitk

    files = sorted((real_data("Dataset027_ACDC") / "imagesTr").glob("*.nii.gz"))[:6]
    for file in files:
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[None].astype(np.float32)
        assert 0.2 < body_mask(image, ["cineMRI"]).mean() <= 1.0


@pytest.mark.data
def test_body_of_real_ct() -> None:
    """Limbs and buttocks on tables: no air but a trace of skin and bowel, and most of the tissue."""
    import SimpleITK as sitk

    for file in sorted((real_data("Dataset050_SarcomaCT") / "imagesTr").glob("*.nii.gz"))[:6]:
        image = sitk.ReadImage(str(file))
        data = sitk.GetArrayFromImage(image).astype(np.float32)
        found = body_mask(data[None], ["CT"], image.GetSpacing()[::-1])
        assert 0.2 < found.mean() < 0.9
        assert (data[found] < -500).mean() < 0.03
        assert found[(data > -200) & (data < 200)].mean() > 0.9


@pytest.mark.data
def test_body_of_a_real_chest_has_the_lungs_and_not_the_table() -> None:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(real_data("odd/formats") / "ct_64.nrrd"))
    data = sitk.GetArrayFromImage(image).astype(np.float32)
    found = body_mask(data[None], ["CT"], image.GetSpacing()[::-1])
    inside = np.s_[20:60, 24:40, 14:50]  # lungs and mediastinum
    assert (data[inside] < -500).mean() > 0.3
    assert found[inside].all()
    below = np.s_[:, -3:, :]  # the table's shell runs through the last rows
    assert (data[below] > -500).any()
    assert not found[below].any()
