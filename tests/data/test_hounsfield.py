from __future__ import annotations

import numpy as np
import pytest

from nnssl.data.hounsfield import (
    BIN_WIDTH,
    BINS,
    LOWEST,
    explain_not_hounsfield,
    exported_window,
    histogram_percentiles,
    hu_histogram,
    is_ct,
    window_statistics,
)
from tests.conftest import real_data


def chest(seed: int = 0, air: float = 0.5) -> np.ndarray:
    """Voxels of a CT: air of the room, lung, fat, soft tissue, bone; HU with noise."""
    rng = np.random.default_rng(seed)
    levels = np.array([-1000, -850, -100, 50, 600])
    shares = np.array([air, 0.15, 0.15, 0.15, 0.05])
    picked = rng.choice(levels, (20, 60, 60), p=shares / shares.sum())
    return np.rint(np.maximum(picked + rng.normal(0, 15, picked.shape), -1024)).astype(np.float32)


def inside_crop(level: float, noise: float = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(level, noise, (20, 40, 40)).astype(np.float32)


def test_good_ct_is_let_through() -> None:
    ct = chest()
    padded, metal = ct.copy(), ct.copy()
    padded[:, :10] = -3024
    metal[:, :2, :2] = 3071
    extended = ct.copy()
    extended[:, :8, :8] = 30710
    for image in (ct, padded, metal, extended):
        assert explain_not_hounsfield(image, "int16") is None


@pytest.mark.parametrize("level", [-850, -100, 0, 60, 350])
def test_crops_from_inside_are_let_through(level: float) -> None:
    """Lung, fat, brain, liver and an artery full of contrast, without any air."""
    assert explain_not_hounsfield(inside_crop(level), "int16") is None


def test_exports_through_a_window_are_still_hounsfield_units() -> None:
    for bounds in ((-160, 240), (0, 80), (-1000, 400)):
        assert explain_not_hounsfield(np.clip(chest(), *bounds), "int16") is None


CT = chest()
RESCALED = (np.clip(CT, -1000, 1000) + 1000) / 2000


@pytest.mark.parametrize(
    ("image", "dtype", "words"),
    [
        (np.rint(230 * RESCALED), "uint8", "picture"),
        (inside_crop(100), "uint8", "picture"),
        (RESCALED, "float32", "z-scored"),
        (2 * RESCALED - 1, "float32", "z-scored"),
        ((CT - CT.mean()) / CT.std(), "float64", "z-scored"),
        (255 * RESCALED / RESCALED.max(), "float32", "0 to 255"),
        (240 * RESCALED, "int16", "dark background"),
        (1000 * RESCALED, "int16", "dark background"),
        (65535 * RESCALED, "uint16", "beyond"),
        (CT.astype(np.int16).view(np.uint16).astype(np.float32), "uint16", "wrapped"),
        (CT + 1024, "uint16", "without its intercept"),
        (CT + 1000, "int16", "without its intercept"),
        (inside_crop(60) + 1024, "int16", "without its intercept"),
        (np.maximum(CT - 1024, -2048), "int16", "twice"),
        (np.full((4, 20, 20), -2000.0), "int16", "only padding"),
    ],
)
def test_what_is_not_ct_in_hu_is_explained(image: np.ndarray, dtype: str, words: str) -> None:
    reason = explain_not_hounsfield(image.astype(np.float32), dtype)
    assert reason is not None
    assert words in reason
    assert "\n" not in reason


def test_padding_does_not_hide_a_missing_intercept() -> None:
    image = CT + 1024
    image[:, :10] = -2000
    assert "without its intercept" in str(explain_not_hounsfield(image, "int16"))


def test_eight_bits_with_a_slope_may_be_hounsfield_units() -> None:
    """NIfTI can hold 16 HU per step and an intercept."""
    assert explain_not_hounsfield(np.rint(CT / 16) * 16, "uint8") is None


def test_ct_is_called_as_nnunet_calls_it() -> None:
    assert is_ct("CT") and is_ct("ct")
    assert not is_ct("CT_venous")


def facts(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    return {"min": values.min(), "percentile_00_5": low, "percentile_99_5": high, "max": values.max()}


def test_an_exported_window_is_seen_in_the_fingerprint() -> None:
    body = CT[CT > -500]
    assert exported_window(facts(np.clip(CT, -160, 240))) == (-160, 240)
    assert exported_window(facts(np.clip(CT, -1000, 400))) == (-1000, 400)
    assert exported_window(facts(body)) is None
    assert exported_window(facts(CT)) is None
    assert exported_window(facts(np.where(body > 500, 3071, body))) is None, "metal reaches the scanner's own limit"


def as_mapping(counts: np.ndarray) -> dict:
    return {"low": LOWEST, "step": BIN_WIDTH, "counts": counts.tolist()}


def test_histogram_counts_every_value_once() -> None:
    counts = hu_histogram(np.array([-3024, -1100, -1091, -1090, 0, 9.9, 10, 3099, 9000]))
    assert counts.shape == (BINS,)
    assert counts.sum() == 9
    assert counts[0] == 3
    assert counts[1] == 1
    assert counts[110] == 2
    assert counts[111] == 1
    assert counts[-1] == 2


def test_percentiles_follow_numpy_to_a_bins_width() -> None:
    shares = (0.5, 10, 50, 90, 99.5)
    found = histogram_percentiles(as_mapping(hu_histogram(CT)), shares)
    assert np.abs(np.array(found) - np.percentile(CT, shares)).max() <= BIN_WIDTH


def test_percentiles_do_not_stray_into_empty_bins() -> None:
    found = histogram_percentiles(as_mapping(hu_histogram(np.repeat([-1000.0, 500.0], 100))), (1, 49, 51, 99))
    assert (np.abs(np.array(found) - [-1000, -1000, 500, 500]) <= BIN_WIDTH).all()


@pytest.mark.parametrize("bounds", [(-160, 240), (-1000, 400), (-1000, 1000), (-55, 183)])
def test_window_statistics_are_those_of_the_clipped_voxels(bounds: tuple[float, float]) -> None:
    found = window_statistics(as_mapping(hu_histogram(CT)), *bounds)
    clipped = np.clip(CT, *bounds)
    assert (found["percentile_00_5"], found["percentile_99_5"]) == bounds
    assert found["mean"] == pytest.approx(float(clipped.mean()), abs=1.0)
    assert found["std"] == pytest.approx(float(clipped.std()), rel=0.005)
    assert found["median"] == pytest.approx(float(np.median(CT)), abs=BIN_WIDTH)


def test_default_bounds_shut_out_a_trace_of_metal_and_padding() -> None:
    body = np.random.default_rng(0).normal(50, 30, 100_000)
    dirty = np.concatenate([body, np.full(300, 3071.0), np.full(300, -3024.0)])
    clean, found = (window_statistics(as_mapping(hu_histogram(v))) for v in (body, dirty))
    assert found["percentile_00_5"] == pytest.approx(clean["percentile_00_5"], abs=25)
    assert found["percentile_99_5"] == pytest.approx(clean["percentile_99_5"], abs=25)
    assert found["mean"] == pytest.approx(50, abs=1)
    assert found["std"] == pytest.approx(30, abs=2)


@pytest.mark.data
def test_real_ct_is_let_through_and_an_eight_bit_export_is_not() -> None:
    import SimpleITK as sitk

    folder = real_data("odd/formats")
    for name in ("ct_64.nrrd", "ct_lung.mha", "example_ct_sm.nii.gz"):
        assert explain_not_hounsfield(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))), "int16") is None
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "ct_gantry_tilt.nii.gz")))
    assert "uint8" in str(explain_not_hounsfield(picture, "uint8"))
    assert explain_not_hounsfield(picture.astype(np.float32), "float32") is not None
