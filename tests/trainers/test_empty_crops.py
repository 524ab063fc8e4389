from __future__ import annotations

import numpy as np
import pytest
import torch
from nnssl.trainers.empty_crops import EMPTY_BELOW, empty_advice, empty_share, intensity_scales

from nnssl.methods import CropBatch


def batch(*crops: np.ndarray, inside: list[list[list[int]]] | None = None) -> CropBatch:
    images = torch.from_numpy(np.stack(crops)).float()
    whole = [[[0, n] for n in images.shape[2:]]] * len(crops)
    return CropBatch(images, torch.tensor(inside or whole), torch.arange(len(crops)))


def share(crops: CropBatch, scales: list[float]) -> float:
    return float(empty_share(crops, torch.tensor(scales)))


def test_air_is_empty_and_tissue_is_not() -> None:
    rng = np.random.default_rng(0)
    shape = (1, 8, 10, 12)
    air = np.full(shape, -2.7)
    noise = 0.02 * rng.standard_normal(shape) - 1
    tissue = 0.1 * rng.standard_normal(shape) + 3
    assert share(batch(air, noise, tissue, tissue), [1.0]) == 0.5


def test_against_the_standard_deviation_of_the_part_inside() -> None:
    """Padding is zero: an all-air crop with padding is empty, although it holds two values."""
    rng = np.random.default_rng(0)
    inside = [[[2, 8], [0, 10]], [[0, 8], [3, 9]], [[0, 8], [0, 10]], [[0, 4], [0, 5]]]
    crops = []
    for (a, b), spread in zip(inside, (0.0, 0.2, 0.049, 0.051)):
        crop = np.zeros((1, 8, 10))
        part = rng.standard_normal((1, a[1] - a[0], b[1] - b[0]))
        crop[:, a[0] : a[1], b[0] : b[1]] = -2 + spread * (part - part.mean()) / part.std()
        crops.append(crop)
    expected = np.mean([c[:, a[0] : a[1], b[0] : b[1]].std() < EMPTY_BELOW for c, (a, b) in zip(crops, inside)])
    assert expected == 0.5
    assert share(batch(*crops, inside=inside), [1.0]) == expected


def test_one_channel_with_content_is_enough_and_scales_count() -> None:
    rng = np.random.default_rng(0)
    flat, textured = np.full((9, 9), 2.0), rng.standard_normal((9, 9))
    assert share(batch(np.stack([flat, textured]), np.stack([flat, flat])), [1.0, 1.0]) == 0.5
    assert share(batch(np.stack([flat, 0.02 * textured])), [1.0, 0.1]) == 0
    assert share(batch(np.stack([flat, 0.02 * textured])), [1.0, 1.0]) == 1


def test_scales_of_normalisations() -> None:
    plans = {
        "foreground_intensity_properties_per_channel": {
            str(i): {"std": 51.0, "min": 0.0, "max": 510.0} for i in range(5)
        }
    }
    names = ("ZScore", "CT", "No", "RGBTo01", "RescaleTo01")
    scales = intensity_scales(plans, {"normalization_schemes": [f"{name}Normalization" for name in names]})
    assert scales == pytest.approx([1, 1, 51, 0.2, 0.1])


def test_advice_only_when_many_are_empty() -> None:
    assert empty_advice({"empty_crops": 0.1}, 0.5) == []
    assert "body_share=0.8, now 0.5" in empty_advice({"empty_crops": 0.4}, 0.5)[0]
    assert "40 %" in empty_advice({"empty_crops": 0.4}, 0.5)[0]
    assert "nnssl_plan_and_preprocess" in empty_advice({"empty_crops": 0.4}, 1.0)[0]
