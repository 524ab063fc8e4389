"""Plans for stacks of thick slices: slices kept, the stack in the patch, pooling by the typical stack."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnssl.planners import PlannerOptions, get_planner
from nnssl.planners.thick_slices import find_stacks, most_frequent, patch_slices, smaller, topology
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.spacing import crop_spacing
from nnssl.errors import NnsslError
from nnssl.methods.masking import block_edges
from nnssl.views import Geometry
from tests.conftest import real_data, run_command

NAME = "Dataset903_Cine"
TEN = ((10.0, 1.5, 1.5), (10, 224, 256))


def write_fingerprint(root: Path, cases: Sequence[tuple], channel: str = "cineMRI") -> None:
    """A dataset of which the planner sees the fingerprint only."""
    images = root / "raw" / NAME / "imagesTr"
    images.mkdir(parents=True)
    names = [f"patient{i:03d}_frame01" for i in range(len(cases))]
    for name in names:
        (images / f"{name}_0000.nii.gz").touch()
    content = {"channel_names": {"0": channel}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (root / "raw" / NAME / "dataset.json").write_text(json.dumps(content))
    statistics = dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"), 1.0)
    fingerprint = {
        "spacings": [list(spacing) for spacing, _ in cases],
        "shapes_after_crop": [list(shape) for _, shape in cases],
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "median_relative_size_after_cropping": 1.0,
        "nnssl": {"reader": "SimpleITKIO", "cases": {name: name for name in names}, "skipped": {}},
    }
    (root / "preprocessed" / NAME).mkdir()
    (root / "preprocessed" / NAME / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def plan(root: Path, cases: Sequence[tuple], size: str = "S", **options: Any) -> dict[str, Any]:
    write_fingerprint(root, cases)
    return get_planner("nnsslPlannerACDC")(NAME, size, options=PlannerOptions(**options)).plan_experiment()


def strides_of(configuration: dict[str, Any]) -> np.ndarray:
    return np.array(configuration["architecture"]["arch_kwargs"]["strides"])


# slices of the typical stack -> poolings across slices, slices of the patch
@pytest.mark.parametrize(("slices", "poolings", "patch"), [(6, 0, 6), (7, 0, 7), (9, 1, 10), (12, 1, 12), (18, 2, 20)])
def test_pooling_follows_the_stack(slices: int, poolings: int, patch: int) -> None:
    found = topology((10.0, 1.5, 1.5), (slices, 224, 256), slices)
    strides = np.array(found.strides)
    assert found.patch == (patch, 224, 256)
    assert (strides[:, 0] == 2).sum() == poolings
    assert (strides[:3, 0] == 1).all() and (strides[1:, 1:] == 2).all()  # in-plane first: 1.5 -> 3 -> 6 mm
    assert patch // strides[:, 0].prod() >= 4
    assert found.kernels[:2] == ((1, 3, 3), (1, 3, 3)) and set(found.kernels[2:]) == {(3, 3, 3)}


def test_few_long_stacks_lengthen_the_patch_and_not_the_pooling() -> None:
    short, long = topology((10.0, 1.5, 1.5), (10, 224, 256), 10), topology((10.0, 1.5, 1.5), (18, 224, 256), 10)
    assert long.strides == short.strides and long.patch[0] == 18
    assert np.array(topology((10.0, 1.5, 1.5), (18, 224, 256), 18).strides)[:, 0].prod() == 4


def test_slices_of_the_patch_hold_every_stack_but_absurd_ones() -> None:
    assert patch_slices([8] * 90 + [18] * 10) == 18
    assert patch_slices([8] * 9 + [200]) == 24
    assert patch_slices([1, 1]) == 1


def test_smaller_patches_skip_no_valid_size() -> None:
    sizes = [256]
    current = topology((10.0, 1.5, 1.5), (10, 256, 256), 10)
    while (found := smaller((10.0, 1.5, 1.5), current, 1, 10)) is not None:
        current = found
        sizes.append(current.patch[1])
        assert current.patch[1] % np.array(current.strides)[:, 1].prod() == 0
    assert sizes[:3] == [256, 224, 192] and sizes[-1] == 4 and sizes == sorted(set(sizes), reverse=True)


def test_typical_spacing_is_one_that_occurs() -> None:
    assert most_frequent([5, 5, 10, 10, 10, 6.5]) == 10
    assert most_frequent([5.001, 4.999, 10, 10]) == 5
    stacks = find_stacks(
        {
            "spacings": [[1.4, 1.2, 5.0], [1.5, 1.3, 10.0], [1.6, 1.4, 10.0]],
            "shapes_after_crop": [[200, 220, 16], [200, 220, 9], [200, 220, 8]],
            "nnssl": {"cases": {"a": "", "b": "", "c": ""}},
        }
    )
    assert stacks.axis == 2 and stacks.spacing == (1.5, 1.3, 10.0) and stacks.slices == (16, 9, 8)


def test_plan_keeps_the_slices_of_mixed_stacks(nnunet_folders: Path) -> None:
    cases = [TEN] * 6 + [((5.0, 1.4, 1.4), (16, 240, 240))] * 3 + [((4.0, 1.6, 1.6), (12, 200, 200))]
    plans = plan(nnunet_folders, cases)
    full = plans["configurations"]["3d_fullres"]
    assert full["spacing"] == [1.5, 1.5] and crop_spacing(full) == (10.0, 1.5, 1.5)
    assert plans["configurations"]["2d"]["spacing"] == [1.5, 1.5]
    assert full["patch_size"][0] == 16 and full["median_image_size_in_voxels"][0] == 10
    assert strides_of(full)[:, 0].prod() == 2
    assert np.all(np.array(full["patch_size"]) % strides_of(full).prod(axis=0) == 0)
    rng = np.random.default_rng(0)
    manager = PlansManager(plans)
    for spacing, (slices, y, x) in cases[5:]:
        image = rng.normal(100, 20, (1, slices, y // 4, x // 4)).astype(np.float32)
        image[:, 3] += 1000  # no other slice may take anything from this one
        done, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
            image, None, {"spacing": spacing}, manager, manager.get_configuration("3d_fullres"), {}
        )
        assert done.shape[1] == slices
        assert done[0, 3].min() > done[0, :3].max() and done[0, 3].min() > done[0, 4:].max()


def test_views_and_masks_see_thick_slices(nnunet_folders: Path) -> None:
    full = plan(nnunet_folders, [TEN] * 4)["configurations"]["3d_fullres"]
    geometry = Geometry(tuple(full["patch_size"]), crop_spacing(full))
    assert geometry.planes() == [(1, 2)] and geometry.thick_axes() == (0,)
    stride = tuple(int(n) for n in strides_of(full).prod(axis=0))
    assert block_edges(None, geometry.patch_size, stride) == stride == (2, 32, 32)
    assert geometry.patch_size[0] == 10  # five blocks across the slices


@pytest.mark.parametrize(("size", "batch"), [("S", 2), ("M", 4), ("L", 4)])
def test_sizes(nnunet_folders: Path, size: str, batch: int) -> None:
    plans = plan(
        nnunet_folders, [((10.0, 1.5, 1.5), (10, 224, 256))] * 40 + [((5.0, 1.5, 1.5), (18, 224, 256))] * 5, size
    )
    full, flat = plans["configurations"]["3d_fullres"], plans["configurations"]["2d"]
    assert full["patch_size"][0] == 18 and min(full["patch_size"][1:]) >= 96
    assert batch <= full["batch_size"] <= 16
    assert tuple(flat["patch_size"]) == (224, 256) and 8 <= flat["batch_size"] <= 64
    kwargs = full["architecture"]["arch_kwargs"]
    lengths = {len(kwargs[key]) for key in ("strides", "kernel_sizes", "features_per_stage", "n_blocks_per_stage")}
    assert lengths == {kwargs["n_stages"]} and len(kwargs["n_conv_per_stage_decoder"]) == kwargs["n_stages"] - 1


def test_normalisation_is_z_score_whatever_the_channel_is_called(nnunet_folders: Path) -> None:
    write_fingerprint(nnunet_folders, [TEN] * 3, channel="rescale_to_0_1")
    plans = get_planner("nnsslPlannerACDC")(NAME, "S").plan_experiment()
    assert {tuple(c["normalization_schemes"]) for c in plans["configurations"].values()} == {("ZScoreNormalization",)}


def test_spacing_of_the_user_resamples_slices_too(nnunet_folders: Path) -> None:
    cases = [TEN] * 3 + [((5.0, 1.5, 1.5), (18, 224, 256))]
    full = plan(nnunet_folders, cases, spacing=(8.0, 1.25, 1.25))["configurations"]["3d_fullres"]
    assert full["spacing"] == [8.0, 1.25, 1.25] and "nnssl_slice_spacing" not in full
    assert full["patch_size"][0] == 12  # stacks of 10 x 10 mm become 12 slices, of 18 x 5 mm 11


def test_what_it_cannot_use_is_refused(nnunet_folders: Path) -> None:
    with pytest.raises(NnsslError, match=r"no stacks of thick slices.*nnsslPlanner"):
        plan(nnunet_folders, [((1.0, 1.0, 1.0), (35, 50, 36))] * 3)
    planner = get_planner("nnsslPlannerACDC")
    with pytest.raises(NnsslError, match="--window is for CT"):
        planner(NAME, "S", options=PlannerOptions(window="lung"))
    with pytest.raises(NnsslError, match=r"--spacing 1\.5 1\.5 1\.5 has no thick slices"):
        planner(NAME, "S", options=PlannerOptions(spacing=(1.5, 1.5, 1.5)))
    assert not (nnunet_folders / "preprocessed" / NAME / "nnsslPlans.json").exists()


def test_odd_cases_are_named(nnunet_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan(nnunet_folders, [TEN] * 4 + [((1.0, 1.0, 1.0), (20, 100, 100))])
    assert "patient004_frame01 is no stack of thick slices" in caplog.text and "patient003" not in caplog.text


def test_stacks_too_long_for_the_memory_are_reported(nnunet_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        full = plan(nnunet_folders, [((5.0, 1.5, 1.5), (80, 144, 144))] * 3)["configurations"]["3d_fullres"]
    assert "no room for stacks of 80 slices" in caplog.text
    assert full["patch_size"][0] < 80 and min(full["patch_size"][1:]) >= 96


def test_sagittal_stacks_are_turned_to_the_front(nnunet_folders: Path) -> None:
    plans = plan(nnunet_folders, [((1.5, 1.5, 8.0), (224, 256, 12))] * 3)
    full = plans["configurations"]["3d_fullres"]
    assert plans["transpose_forward"] == [2, 0, 1]
    assert full["patch_size"][0] == 12 and crop_spacing(full) == (8.0, 1.5, 1.5)


@pytest.mark.data
@pytest.mark.slow
def test_real_stacks_keep_their_slices(nnunet_folders: Path) -> None:
    import blosc2
    import SimpleITK as sitk

    source, target = real_data("Dataset027_ACDC"), nnunet_folders / "raw" / "Dataset904_Real"
    by_thickness: dict[float, Path] = {}
    for file in sorted((source / "imagesTr").glob("*.nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
        by_thickness.setdefault(round(reader.GetSpacing()[2], 1), file)
    (target / "imagesTr").mkdir(parents=True)
    content = {"channel_names": {"0": "cineMRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (target / "dataset.json").write_text(json.dumps(content))
    for file in by_thickness.values():
        (target / "imagesTr" / file.name).symlink_to(file)
    arguments = ("-d", "904", "-pl", "nnsslPlannerACDC", "--size", "S", "-c", "3d_fullres", "-np", "1")
    assert run_command("plan_and_preprocess", *arguments) == 0
    for file in by_thickness.values():
        name = file.name.removesuffix("_0000.nii.gz")
        stored = blosc2.open(
            str(nnunet_folders / "preprocessed" / "Dataset904_Real" / "nnsslPlans_3d_fullres" / f"{name}.b2nd"),
            mode="r",
        )
        assert stored.shape[1] == sitk.ReadImage(str(file)).GetSize()[2]
