from __future__ import annotations

import numpy as np
import pytest

from nnssl.data.images import body_mask, voxel_digest
from tests.conftest import real_data


def ball(shape: tuple[int, ...] = (20, 40, 40), radius: float = 12) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return ((grid - np.array(shape) / 2) ** 2).sum(-1) < radius**2


def test_body_of_a_ct_is_found_by_hounsfield_units() -> None:
    image = np.where(ball(), 40.0, -1000.0)
    image[0, 0, 0] = 3071
    found = body_mask(image[None], ["CT"])
    assert (found == ball()).mean() > 0.999


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_body_of_an_mr_is_found_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    image = np.where(ball(), rng.normal(100, 25, ball().shape), np.abs(rng.normal(0, 4, ball().shape)))
    found = body_mask(scale * image[None], ["MRI"])
    assert (found == ball()).mean() > 0.98


def test_a_crop_from_inside_the_body_is_body_all_over() -> None:
    image = np.random.default_rng(0).normal(100, 25, (20, 40, 40))
    assert body_mask(image[None], ["MRI"]).mean() > 0.99


def test_body_is_never_empty() -> None:
    assert body_mask(np.full((1, 8, 8, 8), -2000.0), ["CT"]).all()


def test_digest_sees_voxels_and_shape_only() -> None:
    data = np.random.default_rng(0).standard_normal((1, 4, 5, 6)).astype(np.float32)
    assert voxel_digest(data) == voxel_digest(np.asfortranarray(data).copy())
    changed = data.copy()
    changed[0, 1, 2, 3] += 1e-3
    assert voxel_digest(changed) != voxel_digest(data)
    assert voxel_digest(data.reshape(1, 5, 4, 6)) != voxel_digest(data)


@pytest.mark.data
def test_body_of_real_cardiac_mr_is_neither_all_nor_nothing() -> None:
    import SimpleITK as sitk

    files = sorted((real_data("Dataset027_ACDC") / "imagesTr").glob("*.nii.gz"))[:6]
    for file in files:
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[None].astype(np.float32)
        assert 0.2 < body_mask(image, ["cineMRI"]).mean() <= 1.0
