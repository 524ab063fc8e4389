"""A dataset with a fingerprint and plans written by hand: fast, and with everything in it that a page can show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import UNET_3D, write_image

NAME = "Dataset711_Hand"
EVIL = "<script>alert(1)</script>"


def intensity(low: float) -> list[dict[str, float]]:
    return [
        {"min": low - 10, "percentile_00_5": low, "median": low + 50, "percentile_99_5": low + 200, "max": low + 300,
         "mean": low + 60, "std": 20.0}
    ]  # fmt: skip


def fingerprint(cases: int) -> dict[str, Any]:
    """A fingerprint with all keys: the last case is an outlier, one more case was skipped."""
    measured = {
        f"case_{i:03d}": {
            "shape": [10 + i, 20, 24],
            "shape_after_crop": [9, 18, 22],
            "spacing": [4.0, 1.0, 1.0 + (i == cases - 1)],
            "dtype": "int16" if i else "float32",
            "orientation": "LPS",
            "foreground_share": 0.2 + 0.01 * i,
            "intensity": intensity(10.0 * i),
        }
        for i in range(cases)
    }
    return {
        "spacings": [m["spacing"] for m in measured.values()],
        "shapes_after_crop": [m["shape_after_crop"] for m in measured.values()],
        "foreground_intensity_properties_per_channel": {"0": intensity(-100)[0]},
        "median_relative_size_after_cropping": 1.0,
        "nnssl": {
            "source": "abc",
            "reader": "SimpleITKIO",
            "cases": dict.fromkeys(measured, "digest"),
            "skipped": {EVIL: f"broken {EVIL}"},
            "measured": measured,
            "outliers": {f"case_{cases - 1:03d}": ["spacing along X is 2 mm, usual is 1 mm"]},
            "ct_histogram": {"0": {"low": -1100, "step": 100, "counts": [0, 0, 5, 10, 3] + [0] * 30 + [1]}},
        },
    }


def plans() -> dict[str, Any]:
    return {
        "dataset_name": NAME,
        "plans_name": "nnsslPlans",
        "experiment_planner_used": "nnsslPlannerCT",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensity(-100)[0]},
        "nnssl_like": {"dataset_name": "Dataset027_ACDC", "plans_name": "nnsslPlans"},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnsslPlans_3d_fullres",
                "batch_size": 2,
                "patch_size": [8, 16, 16],
                "median_image_size_in_voxels": [16.0, 16.0, 20.0],
                "spacing": [4.0, 1.5, 1.0],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "architecture": json.loads(json.dumps(UNET_3D)),
            }
        },
    }


def write_raw(raw: Path, cases: int, channels: int = 1, name: str = NAME) -> Path:
    """A CT-like raw dataset: a bright ball in air."""
    rng = np.random.default_rng(0)
    folder = raw / name
    for i in range(cases):
        grid = np.indices((10 + i, 20, 24)).transpose(1, 2, 3, 0) - np.array([5 + i / 2, 10, 12])
        ball = (grid**2).sum(-1) < 64
        for c in range(channels):
            image = np.where(ball, 40, -1000) + rng.normal(0, 10, ball.shape)
            write_image(image.astype(np.int16), folder / "imagesTr" / f"case_{i:03d}_{c:04d}.nii.gz", (4, 1, 1))
    names = {str(c): "CT" for c in range(channels)}
    content = {"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def hand_made(nnunet_folders: Path) -> Callable[..., Path]:
    """Write raw images and, as asked for, a fingerprint (changed by `edit`) and plans; returns the preprocessed folder."""

    def make(cases: int = 3, with_plans: bool = True, edit: Callable[[dict[str, Any]], None] | None = None) -> Path:
        write_raw(nnunet_folders / "raw", cases)
        folder = nnunet_folders / "preprocessed" / NAME
        folder.mkdir()
        content = fingerprint(cases)
        if edit:
            edit(content)
        (folder / "dataset_fingerprint.json").write_text(json.dumps(content))
        if with_plans:
            (folder / "nnsslPlans.json").write_text(json.dumps(plans()))
        return folder

    return make
