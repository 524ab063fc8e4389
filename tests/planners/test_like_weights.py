"""Planning a target for a file of pretrained weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from nnssl.planners import PlannerOptions
from nnssl.planners.like_weights import LikeWeightsPlanner

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import Pretraining, Weights, complete_network, target_of
from tests.conftest import run_command

CT = {"0": {"mean": 30.0, "std": 70.0, "percentile_00_5": -160.0, "percentile_99_5": 240.0}}


@pytest.fixture
def target(pretraining: Path) -> Path:
    """Preprocessed folder of the planned target; plans made here get names of their own and are removed."""
    folder = pretraining / "preprocessed" / "Dataset901_Target"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


def weights(architecture: dict, **images: object) -> Weights:
    unet = build_unet(architecture, 1, 2)
    facts = Pretraining(**{"spacing": (2.0, 1.0, 1.0), "patch_size": (16, 32, 32), **images})
    tensors = {k: v for k, v in unet.state_dict().items() if k.startswith("encoder.") and "all_modules" not in k}
    return Weights("a test", tensors, architecture, 1, facts)


def plan(source: Weights, policy: str = "pretrained", **options: object) -> dict:
    planner = LikeWeightsPlanner("Dataset901_Target", source, policy, "S", "likePlans", (), PlannerOptions(**options))
    planner.plan_experiment()
    path = Path(planner.raw_dataset_folder).parent.parent / "preprocessed" / "Dataset901_Target" / "likePlans.json"
    return json.loads(path.read_text())


def test_everything_loads_into_the_planned_network(target: Path, unet_3d: dict) -> None:
    source = weights(unet_3d)
    plans = plan(source)
    assert list(plans["configurations"]) == ["3d_fullres"]
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["architecture"] == json.loads(json.dumps(unet_3d))
    assert configuration["spacing"] == [2.0, 1.0, 1.0]
    dataset_json = json.loads((target / "dataset.json").read_text())
    _, report = complete_network(source, target_of(plans, configuration, dataset_json, None), "fresh", 0)
    assert report.encoder_coverage == 1
    assert not report.adapted
    assert not any("spacing" in r or "strides" in r for r in report.remarks)


@pytest.mark.parametrize("policy", ["target", "fixed"])
def test_the_spacing_follows_the_policy(target: Path, unet_3d: dict, policy: str) -> None:
    options = {"spacing": (3.0, 1.5, 1.5)} if policy == "fixed" else {}
    found = plan(weights(unet_3d), policy, **options)["configurations"]["3d_fullres"]["spacing"]
    assert found == ([3.0, 1.5, 1.5] if policy == "fixed" else [1.0, 1.0, 1.0])


def test_the_patch_is_cut_to_what_the_images_can_fill(target: Path, unet_3d: dict) -> None:
    """The images have about 22 x 25 x 23 voxels, the strides divide by 2, 4 and 4."""
    big = plan(weights(unet_3d, patch_size=(64, 64, 64), spacing=(1.0, 1.0, 1.0)))["configurations"]["3d_fullres"]
    small = plan(weights(unet_3d, patch_size=(8, 16, 16), spacing=(1.0, 1.0, 1.0)))["configurations"]["3d_fullres"]
    assert small["patch_size"] == [8, 16, 16]
    assert all(p % s == 0 and p <= 28 for p, s in zip(big["patch_size"], (2, 4, 4)))
    assert all(p >= n - s for p, n, s in zip(big["patch_size"], big["median_image_size_in_voxels"], (2, 4, 4)))


def test_ct_keeps_the_numbers_it_was_pretrained_with(target: Path, unet_3d: dict) -> None:
    described = target / "dataset.json"
    raw = target.parent.parent / "raw" / "Dataset901_Target" / "dataset.json"
    kept = raw.read_text(), described.read_text()
    try:
        raw.write_text(kept[0].replace("MRI", "CT"))
        planned = plan(weights(unet_3d, normalization=("CTNormalization",), intensity=CT))
        assert planned["foreground_intensity_properties_per_channel"] == CT
        other = plan(weights(unet_3d, normalization=("ZScoreNormalization",), intensity=CT))
        assert other["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization"]
        assert other["foreground_intensity_properties_per_channel"] != CT, "z-scored pretraining says nothing about HU"
    finally:
        raw.write_text(kept[0])
        described.write_text(kept[1])


def test_what_is_missing_is_said(target: Path, unet_3d: dict) -> None:
    source = weights(unet_3d)
    with pytest.raises(NnsslError, match="does not describe its network"):
        plan(replace(source, architecture=None))
    with pytest.raises(NnsslError, match="--like-spacing target"):
        plan(weights(unet_3d, spacing=None))
    with pytest.raises(NnsslError, match="--spacing Z Y X"):
        plan(source, "fixed")


def test_a_2d_file_plans_2d(target: Path, unet_3d: dict) -> None:
    flat = json.loads(json.dumps(unet_3d).replace("Conv3d", "Conv2d").replace("InstanceNorm3d", "InstanceNorm2d"))
    flat["arch_kwargs"] |= {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
    plans = plan(weights(flat, patch_size=(32, 32), spacing=(1.5, 1.5)))
    assert list(plans["configurations"]) == ["2d"]
    assert plans["configurations"]["2d"]["spacing"] == [1.5, 1.5]


def test_flags_that_contradict_each_other_are_one_clear_line(
    target: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    base = ("plan_and_preprocess", "-d", "901", "--no_pp", "-p", "likePlans")
    assert run_command(*base, "--like", str(tmp_path / "none.pth")) == 2
    assert "none.pth" in capsys.readouterr().err
    assert run_command(*base, "--like", "901", "--like-spacing", "target") == 2
    assert "--like FILE" in capsys.readouterr().err


def test_the_source_is_not_changed(target: Path, unet_3d: dict) -> None:
    source = weights(unet_3d)
    before = copy.deepcopy(source.architecture)
    plan(source)
    assert source.architecture == before
