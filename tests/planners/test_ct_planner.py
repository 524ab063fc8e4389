from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from nnssl.planners import PlannerOptions, extract_fingerprint, get_planner, plan_like
from nnssl.planners.ct import WINDOWS, nnsslPlannerCT, window_bounds
from nnssl.planners.ct_spacing import MAX_RATIO, MAX_VOXELS, ct_target_spacing, slice_axis

from nnssl.errors import NnsslError
from tests.conftest import run_command, write_image

POOL = "Dataset950_CT"
SHAPE = (20, 40, 44)


def scan(seed: int) -> np.ndarray:
    """A trunk with lungs in the room's air, int16 HU."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(SHAPE[1]) - 20, np.arange(SHAPE[2]) - 22, indexing="ij")
    body = (y / 15) ** 2 + (x / 19) ** 2 < 1
    lung = (y / 8) ** 2 + ((np.abs(x) - 9) / 5) ** 2 < 1
    image = np.broadcast_to(np.where(body, np.where(lung, -850, 40), -1000), SHAPE).copy()
    image[:, 28:32, 20:24] = 700
    image = image + rng.normal(0, 20, SHAPE)
    return np.rint(image).astype(np.int16)


def make_ct(root: Path, cases: int = 3, spacing: tuple[float, ...] = (8, 8, 8), channel: str = "CT") -> Path:
    folder = root / "raw" / POOL
    for i in range(cases):
        write_image(scan(i), folder / "imagesTr" / f"case_{i}_0000.nii.gz", spacing)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": channel}, "file_ending": ".nii.gz"}))
    return folder


@pytest.fixture
def ct(nnunet_folders: Path) -> Path:
    """Three scans with their fingerprint."""
    make_ct(nnunet_folders)
    extract_fingerprint(POOL, 1)
    return nnunet_folders


def pretend(root: Path, spacings: list, shapes: list) -> None:
    """Give the scans other spacings and shapes, as if they were large."""
    path = root / "preprocessed" / POOL / "dataset_fingerprint.json"
    content = json.loads(path.read_text())
    content |= {"spacings": spacings, "shapes_after_crop": shapes}
    path.write_text(json.dumps(content))


def plan(size: str = "S", **options: object) -> dict:
    plans = nnsslPlannerCT(POOL, size, options=PlannerOptions(**options)).plan_experiment()  # type: ignore[arg-type]
    return json.loads(json.dumps(plans, default=lambda v: v.tolist()))


def properties(plans: dict) -> dict:
    return plans["foreground_intensity_properties_per_channel"]["0"]


@pytest.mark.parametrize("window", [None, "wide", "lung", "soft", (-200.0, 300.0)])
def test_stock_nnunet_normalises_as_the_plans_say(ct: Path, window: str | tuple[float, float] | None) -> None:
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    plans = plan(window=window)
    assert all(c["normalization_schemes"] == ["CTNormalization"] for c in plans["configurations"].values())
    numbers = properties(plans)
    image = scan(0).astype(np.float32)
    body = np.concatenate([scan(i)[scan(i) > -930] for i in range(3)])  # by the recipe of the scans
    low, high = window_bounds(window) or np.percentile(body, (0.5, 99.5))
    assert numbers["percentile_00_5"] == pytest.approx(low, abs=0 if window else 25)
    assert numbers["percentile_99_5"] == pytest.approx(high, abs=0 if window else 25)
    clipped = np.clip(body, low, high)
    assert numbers["mean"] == pytest.approx(clipped.mean(), abs=8)
    assert numbers["std"] == pytest.approx(clipped.std(), rel=0.03)
    by_hand = (np.clip(image, numbers["percentile_00_5"], numbers["percentile_99_5"]) - numbers["mean"]) / numbers[
        "std"
    ]
    assert np.allclose(CTNormalization(False, numbers).run(image.copy()), by_hand, atol=1e-5)


def test_preprocessed_voxels_are_clipped_and_scaled(nnunet_folders: Path) -> None:
    make_ct(nnunet_folders)
    arguments = (
        "-d",
        "950",
        "-pl",
        "nnsslPlannerCT",
        "--window=-160,240",
        "--size",
        "S",
        "-c",
        "3d_fullres",
        "-np",
        "1",
    )
    assert run_command("plan_and_preprocess", *arguments) == 0
    folder = nnunet_folders / "preprocessed" / POOL
    numbers = properties(json.loads((folder / "nnsslPlans.json").read_text()))
    import blosc2

    image = blosc2.open(str(folder / "nnsslPlans_3d_fullres" / "case_0.b2nd"))[:].astype(np.float32)
    hu = image * numbers["std"] + numbers["mean"]
    assert hu.min() == pytest.approx(-160, abs=1)
    assert hu.max() == pytest.approx(240, abs=1)


def test_like_carries_the_very_same_numbers(ct: Path) -> None:
    """In both directions: a target planned like the pool, and then a pool planned like that target."""
    plan(window="soft")
    other = ct / "raw" / "Dataset951_Other"
    write_image(scan(9), other / "imagesTr" / "one_0000.nii.gz", (5, 5, 5))
    (other / "dataset.json").write_text((ct / "raw" / POOL / "dataset.json").read_text())
    extract_fingerprint("Dataset951_Other", 1)
    like = plan_like("Dataset951_Other", POOL, "nnsslPlans", "nnsslPlans", "S")
    original = json.loads((ct / "preprocessed" / POOL / "nnsslPlans.json").read_text())
    assert properties(like) == properties(original)
    assert properties(like)["percentile_00_5"] == -160
    for name, configuration in original["configurations"].items():
        assert like["configurations"][name]["spacing"] == configuration["spacing"]
        assert like["configurations"][name]["normalization_schemes"] == ["CTNormalization"]
    back = plan_like(POOL, "Dataset951_Other", "nnsslPlans", "back", "S")
    assert properties(back) == properties(original)


def test_windows_and_their_names(caplog: pytest.LogCaptureFixture) -> None:
    assert window_bounds(None) is None
    assert window_bounds("soft") == WINDOWS["soft"] == (-160, 240)
    for bad, words in (("lnug", "Did you mean 'lung'"), ((240, -160), "lower bound"), ((4000, 5000), "no tissue")):
        with pytest.raises(NnsslError, match=words):
            window_bounds(bad)  # type: ignore[arg-type]


def test_other_planners_refuse_a_window_and_say_which_takes_it(ct: Path) -> None:
    with pytest.raises(NnsslError, match="nnsslPlannerCT"):
        get_planner("nnsslPlanner")(POOL, "S", options=PlannerOptions(window="soft"))


def test_a_channel_must_be_called_ct(nnunet_folders: Path) -> None:
    make_ct(nnunet_folders, channel="CT_venous")
    extract_fingerprint(POOL, 1)
    with pytest.raises(NnsslError, match=r"CT_venous.*rename the channel in dataset\.json"):
        nnsslPlannerCT(POOL, "S")


def test_one_case_that_is_not_in_hu_is_left_out_by_name(nnunet_folders: Path) -> None:
    folder = make_ct(nnunet_folders)
    write_image(np.clip(scan(7) / 8 + 125, 0, 251).astype(np.uint8), folder / "imagesTr" / "picture_0000.nii.gz")
    assert run_command("plan_and_preprocess", "-d", "950", "-pl", "nnsslPlannerCT", "--size", "S", "-np", "1") == 0
    preprocessed = nnunet_folders / "preprocessed" / POOL
    plans = json.loads((preprocessed / "nnsslPlans.json").read_text())
    assert list(plans["nnssl_left_out"]) == ["picture"]
    assert "uint8" in plans["nnssl_left_out"]["picture"]
    assert plans["configurations"]["3d_fullres"]["spacing"] == [8, 8, 8], "its spacing must not count either"
    pool = json.loads((preprocessed / "nnsslPlans_3d_fullres_pool.json").read_text())
    assert [c["name"] for c in pool["cases"]] == ["case_0", "case_1", "case_2"]
    report = json.loads((preprocessed / "nnsslPlans_report.json").read_text())
    assert "picture" in report["skipped"]["plans"]


def test_a_pool_of_pictures_is_refused_with_the_reason(nnunet_folders: Path) -> None:
    folder = make_ct(nnunet_folders, cases=1)
    for i in range(2):
        write_image(scan(i) + np.int16(1024), folder / "imagesTr" / f"shifted_{i}_0000.nii.gz")
    extract_fingerprint(POOL, 1)
    with pytest.raises(NnsslError, match=r"2 of 3 cases are not CT.*shifted_0: .*without its intercept") as error:
        nnsslPlannerCT(POOL, "S")
    assert "\n" not in str(error.value)
    assert str(error.value).count("Subtract 1024") == 1, "what to do stands there once"
    assert not list((nnunet_folders / "preprocessed").rglob("nnsslPlans.json"))


def test_exports_through_a_window_are_named(nnunet_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_ct(nnunet_folders)
    write_image(np.clip(scan(7), -160, 240), folder / "imagesTr" / "narrow_0000.nii.gz", (8, 8, 8))
    extract_fingerprint(POOL, 1)
    with caplog.at_level(logging.WARNING):
        plan()
    warnings = [r.getMessage() for r in caplog.records if "cut off" in r.getMessage()]
    assert len(warnings) == 1
    assert "narrow" in warnings[0]
    assert "--window=-160,240" in warnings[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        plan(window="soft")
    assert not [r for r in caplog.records if "cut off" in r.getMessage()], "that window loses nothing"


CHEST = ([[1.0, 0.7, 0.7]] * 3, [[300, 512, 512]] * 3)


@pytest.mark.parametrize("size", ["S", "M", "L", "XL"])
def test_a_chest_ct_becomes_tractable_and_isotropic(size: str) -> None:
    spacing = ct_target_spacing(*CHEST, MAX_VOXELS[size])
    assert np.ptp(spacing) < 0.1
    voxels = np.prod(np.array(CHEST[1][0]) * CHEST[0][0] / spacing)
    assert voxels == pytest.approx(MAX_VOXELS[size], rel=0.01)
    if size == "M":
        assert spacing == pytest.approx([1.48] * 3, abs=0.01)


def test_thin_slices_are_coarsened_to_the_plane() -> None:
    assert ct_target_spacing([[0.6, 0.7, 0.7]], [[60, 100, 100]], 1e7) == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(("plane", "wanted"), [(0.78, 5 / MAX_RATIO), (0.45, 0.9), (1.5, 1.5)])
def test_thick_slices_are_kept_and_the_plane_follows_within_bounds(plane: float, wanted: float) -> None:
    """Abdomen at 5 mm; a head with a fine plane is at most doubled; what is not too anisotropic is left alone."""
    assert ct_target_spacing([[5, plane, plane]], [[30, 256, 256]], 1e8) == pytest.approx([5, wanted, wanted])


def test_a_mixed_pool_follows_its_median() -> None:
    spacings = [[1, 0.7, 0.7], [2.5, 0.8, 0.8], [5, 0.75, 0.75]]
    found = ct_target_spacing(spacings, [[50, 100, 100]] * 3, 1e8)
    assert found == pytest.approx([2.5, 0.75, 0.75])


def test_small_crops_keep_their_resolution() -> None:
    assert ct_target_spacing([[1, 0.7, 0.7]], [[40, 64, 64]], MAX_VOXELS["S"]) == pytest.approx([1, 0.7, 0.7])


def test_a_whole_body_is_not_blurred_beyond_3_mm() -> None:
    assert ct_target_spacing([[1, 0.98, 0.98]], [[1800, 512, 512]], MAX_VOXELS["S"]) == pytest.approx([3, 3, 3])


def test_the_size_cap_spares_the_coarse_axis_first() -> None:
    found = ct_target_spacing([[4, 1, 1.2]], [[100, 400, 400]], 4e6)
    assert found[0] == 4
    assert found[1] == found[2] > 1.2
    assert np.prod(np.array([400, 400, 480]) / found) == pytest.approx(4e6)


def test_single_slices_keep_their_plane() -> None:
    assert ct_target_spacing([[999, 1, 1]], [[1, 512, 512]], MAX_VOXELS["S"])[1:] == pytest.approx([1, 1])


def test_the_slice_axis_is_the_odd_one_out() -> None:
    assert slice_axis([[0.6, 0.7, 0.7]]) == 0
    assert slice_axis([[0.7, 0.7, 1.0], [0.8, 0.8, 0.8]]) == 2
    assert slice_axis([[1, 1, 1]]) == 0


def test_plans_of_a_chest_have_no_cascade_and_acquired_slices_in_2d(ct: Path) -> None:
    pretend(ct, *CHEST)
    plans = plan("S")
    assert set(plans["configurations"]) == {"2d", "3d_fullres"}
    assert plans["configurations"]["3d_fullres"]["spacing"] == pytest.approx([2.34] * 3, abs=0.01)
    assert plans["configurations"]["2d"]["spacing"] == [0.7, 0.7], "2D has no slices to compromise with"
    assert plans["configurations"]["2d"]["median_image_size_in_voxels"] == pytest.approx([512, 512], rel=1e-3)
    assert plans["transpose_forward"] == [0, 1, 2]
    with pytest.raises(NnsslError, match="3d_lowres is not planned"):
        nnsslPlannerCT(POOL, "S", required=("3d_lowres",)).plan_experiment()


def test_scans_stored_with_the_slices_last_are_turned(ct: Path) -> None:
    pretend(ct, [[0.7, 0.7, 0.6]] * 3, [[512, 512, 500]] * 3)
    plans = plan("S")
    assert plans["transpose_forward"] == [2, 0, 1]
    assert plans["transpose_backward"] == [1, 2, 0]
    assert plans["configurations"]["2d"]["spacing"] == [0.7, 0.7]


def test_the_users_spacing_wins(ct: Path) -> None:
    pretend(ct, *CHEST)
    plans = plan("S", spacing=(3.0, 1.0, 1.0))
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3, 1, 1]
    assert plans["configurations"]["2d"]["spacing"] == [1, 1]


@pytest.mark.parametrize("size", [(75, 210, 228), (80, 227, 212), (78, 227, 180)])
def test_strides_divide_every_patch(ct: Path, size: tuple[int, ...]) -> None:
    """A median of 235.9999 pixels once became a patch of 255, which the network cannot take."""
    pretend(ct, [[3.2699999809265137, 0.9765620231628418, 0.9765620231628418]] * 3, [list(size)] * 3)
    for configuration in plan("S")["configurations"].values():
        strides = np.prod(configuration["architecture"]["arch_kwargs"]["strides"], axis=0)
        assert not np.any(np.asarray(configuration["patch_size"]) % strides), configuration["patch_size"]
