from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.importing.label_maps import label_values
from tests.conftest import real_data


def organs(values: int, dtype: str = "uint16") -> np.ndarray:
    """Blocks of one value each, on background."""
    rng = np.random.default_rng(0)
    blocks = rng.permutation(np.arange(8 * 8 * 8) % values).reshape(8, 8, 8)
    return np.kron(blocks, np.ones((5, 5, 5))).astype(dtype)


@pytest.mark.parametrize("values", [2, 9, 118])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_label_maps_are_recognised(values: int, dtype: str) -> None:
    assert label_values(organs(values, dtype)) == values


def test_images_with_few_grey_levels_are_images() -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal(20, 4, (40, 40, 40)), 0, 60).astype(np.uint8)
    assert len(np.unique(noisy)) < 64
    assert label_values(noisy) == 0
    stripped = np.where(organs(2) > 0, noisy, 0)  # a brain without its skull: zero all around
    assert label_values(stripped) == 0
    assert label_values(rng.normal(0, 1, (30, 30, 30)).astype(np.float32)) == 0
    assert label_values((rng.normal(0, 300, (30, 30, 30))).astype(np.int16)) == 0


@pytest.mark.data
def test_real_images_and_labels_are_told_apart() -> None:
    for name in ("Dataset004_Hippocampus", "Dataset027_ACDC", "Dataset050_SarcomaCT"):
        for part, expected in (("imagesTr", False), ("labelsTr", True)):
            for file in sorted((real_data(name) / part).glob("*.nii.gz"))[:8]:
                assert bool(label_values(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))) is expected, file
