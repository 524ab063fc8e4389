from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nnssl.planners import extract_fingerprint, nnsslPlanner, plan_like

from nnssl.errors import NnsslError
from tests.conftest import make_raw, run_command


def plans_of(root: Path, dataset: str, name: str = "nnsslPlans") -> dict:
    return json.loads((root / "preprocessed" / dataset / f"{name}.json").read_text())


@pytest.mark.slow
def test_labelled_dataset_gets_nnunets_own_fingerprint_and_plans(nnunet_folders: Path) -> None:
    """Size M on a fully labelled dataset: nnU-Net's numbers (its intensities are a random sample, as ours are).

    Only names and the batch cap differ.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        nnUNetPlannerResEncM,
    )

    make_raw(nnunet_folders / "raw", "Dataset901_Target", 6, 6, spacing=(3.0, 1.0, 1.2))
    DatasetFingerprintExtractor("Dataset901_Target", 1).run()
    theirs = nnUNetPlannerResEncM("Dataset901_Target").plan_experiment()
    fingerprint = nnunet_folders / "preprocessed" / "Dataset901_Target" / "dataset_fingerprint.json"
    expected = json.loads(fingerprint.read_text())
    found = extract_fingerprint("Dataset901_Target", 1)
    kept = fingerprint.with_name("dataset_fingerprint_nnunet.json")
    assert json.loads(kept.read_text()) == expected, "nnU-Net's own file must not be lost"
    for key in ("spacings", "shapes_after_crop"):
        assert np.allclose(found[key], expected[key]), key
    for key in ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"):
        a, b = (f["foreground_intensity_properties_per_channel"]["0"][key] for f in (found, expected))
        assert a == pytest.approx(b, rel=5e-3), key

    ours = nnsslPlanner("Dataset901_Target", "M").plan_experiment()
    ours, theirs = (json.loads(json.dumps(p, default=lambda v: v.tolist())) for p in (ours, theirs))
    for key in ("transpose_forward", "transpose_backward", "original_median_shape_after_transp", "image_reader_writer"):
        assert ours[key] == theirs[key], key
    for name, configuration in theirs["configurations"].items():
        for key, value in configuration.items():
            mine = ours["configurations"][name][key]
            if key == "data_identifier":
                assert mine == f"nnsslPlans_{name}"
            elif key == "batch_size":
                assert mine == min(value, 64 if name == "2d" else 16)
            else:
                assert mine == value, (name, key)


def test_like_takes_everything_that_must_match(planned: Path) -> None:
    pool, target = plans_of(planned, "Dataset902_Pool"), plans_of(planned, "Dataset901_Target")
    own = {"dataset_name", "configurations", "nnssl_like"}
    assert {k: v for k, v in pool.items() if k not in own} == {k: v for k, v in target.items() if k not in own}
    for name, configuration in target["configurations"].items():
        assert pool["configurations"][name] == configuration
    assert pool["dataset_name"] == "Dataset902_Pool"
    assert pool["nnssl_like"] == {"dataset_name": "Dataset901_Target", "plans_name": "nnsslPlans"}


def test_small_images_get_small_batches_and_networks(planned: Path) -> None:
    configurations = plans_of(planned, "Dataset901_Target")["configurations"]
    assert configurations["3d_fullres"]["batch_size"] <= 4
    assert configurations["2d"]["batch_size"] <= 16
    assert configurations["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"][0] == 16


def test_the_broken_case_is_named_and_the_rest_is_there(planned: Path) -> None:
    folder = planned / "preprocessed" / "Dataset902_Pool"
    report = json.loads((folder / "nnsslPlans_report.json").read_text())
    assert list(report["skipped"]["fingerprint"]) == ["broken"]
    assert report["skipped"]["fingerprint"]["broken"]
    pool = json.loads((folder / "nnsslPlans_3d_fullres_pool.json").read_text())
    assert [c["name"] for c in pool["cases"]] == [f"case_{i:03d}" for i in range(5)]
    assert not any(c["labelled"] for c in pool["cases"])
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 5


def test_channels_must_agree(planned: Path, pretraining: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    folder = raw / "Dataset902_Pool"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}')
    monkeypatch.setenv("nnUNet_raw", str(raw))
    with pytest.raises(NnsslError, match="2 channel"):
        plan_like("Dataset902_Pool", 901, "nnsslPlans", "other", "S")


@pytest.mark.slow
def test_partly_labelled_dataset_keeps_unlabelled_cases_from_nnunet(nnunet_folders: Path) -> None:
    make_raw(nnunet_folders / "raw", "Dataset903_Mixed", 7, 4)
    assert run_command("plan_and_preprocess", "-d", "903", "--size", "S", "-np", "2", "-c", "3d_fullres") == 0
    folder = nnunet_folders / "preprocessed" / "Dataset903_Mixed"
    main = {p.name.removesuffix(".b2nd") for p in (folder / "nnsslPlans_3d_fullres").glob("case_???.b2nd")}
    beside = {p.name.removesuffix(".b2nd") for p in (folder / "nnsslPlans_3d_fullres_unlabelled").glob("case_???.b2nd")}
    assert main == {f"case_{i:03d}" for i in range(4)}
    assert beside == {f"case_{i:03d}" for i in range(4, 7)}
    assert len(list((folder / "gt_segmentations").iterdir())) == 4
    pool = json.loads((folder / "nnsslPlans_3d_fullres_pool.json").read_text())["cases"]
    assert len(pool) == 7
    assert sum(c["labelled"] for c in pool) == 4

    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    dataset = nnUNetDatasetBlosc2(str(folder / "nnsslPlans_3d_fullres"))
    _, seg, _, properties = dataset.load_case("case_000")
    for label in (1, 2):
        places = properties["class_locations"][label]
        assert len(places) > 0
        assert (seg[:][tuple(np.array(places).T)] == label).all()


def test_an_unchanged_dataset_is_not_fingerprinted_again(
    pretraining: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nnssl.planners.fingerprint as module

    monkeypatch.setattr(module, "run_claimed_cases", lambda *_: pytest.fail("computed again"))
    assert set(extract_fingerprint("Dataset902_Pool", 1)["nnssl"]["cases"]) == {f"case_{i:03d}" for i in range(5)}
