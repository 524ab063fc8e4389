"""Plans never replace nnU-Net's files, and what a command would pass over is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from nnssl.planners.planner import _one_worker_at_least, save_plans

from nnssl.data.checked import check_plans
from nnssl.data.folders import read_plans
from nnssl.data.plan_names import check_not_nnunets, check_plans_name
from nnssl.errors import NnsslError
from tests.conftest import make_raw, run_command


@pytest.mark.parametrize(
    "name",
    (
        *(
            "dataset",
            "splits_final",
            "Dataset_Fingerprint",
            "dataset_fingerprint_nnunet",
            "x_pool",
            "nnsslPlans_report",
        ),
        *("../x", "a/b", "/tmp/x", "", ".x", "a__b", "x.json", "a b"),
    ),
)
def test_names_that_plans_must_not_have(name: str) -> None:
    with pytest.raises(NnsslError, match=r"^-o "):
        check_plans_name(name, "-o")


@pytest.mark.parametrize("name", ["nnsslPlans", "my-plans_2", "v1.5+x", "dataset7", "pool"])
def test_names_that_plans_may_have(name: str) -> None:
    check_plans_name(name, "-p")


@pytest.mark.parametrize(
    ("plans", "ours"),
    [
        ({"experiment_planner_used": "ResEncUNetPlanner"}, False),
        ({"experiment_planner_used": "ExperimentPlanner"}, False),
        ({"experiment_planner_used": "nnUNetPlannerResEncM", "nnssl_like": {}}, True),
        ({"experiment_planner_used": "nnUNetPlannerResEncM", "nnssl": {}}, True),
        ({"experiment_planner_used": "nnsslPlanner"}, True),
        ({"experiment_planner_used": "somebodysPlanner"}, True),
        ({}, False),
        ([], False),
    ],
)
def test_whose_plans_they_are(tmp_path: Path, plans: object, ours: bool) -> None:
    path = tmp_path / "nnUNetPlans.json"
    check_not_nnunets(path, "-p")
    path.write_text(json.dumps(plans))
    if ours:
        check_not_nnunets(path, "-p")
        return
    with pytest.raises(NnsslError, match="not written by nnssl"):
        check_not_nnunets(path, "-p")


def test_planning_keeps_off_other_files(nnunet_folders: Path, capsys: pytest.CaptureFixture) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 1, 0)
    folder = nnunet_folders / "preprocessed" / "Dataset902_Pool"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text('{"experiment_planner_used": "ResEncUNetPlanner"}')
    before = (folder / "nnUNetPlans.json").read_bytes()
    for name in ("dataset", "nnUNetPlans", "../x"):
        assert run_command("plan_and_preprocess", "-d", "902", "-p", name, "--no_pp") == 2
        assert f"-p {name}" in capsys.readouterr().err
    assert [p.name for p in folder.iterdir()] == ["nnUNetPlans.json"]
    assert (folder / "nnUNetPlans.json").read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    (
        *("--like 901", "--like-plans x", "--like-spacing fixed", "-pl nnsslPlannerCT", "--size M", "--spacing 1 1 1"),
        *("--window lung", "--encoder resnet50"),
    ),
)
def test_what_only_pp_would_pass_over_is_refused(
    nnunet_folders: Path, flags: str, capsys: pytest.CaptureFixture
) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 1, 0)
    assert run_command("plan_and_preprocess", "-d", "902", "--only_pp", *flags.split()) == 2
    assert flags.split()[0] + " is for planning" in capsys.readouterr().err


def test_a_part_is_not_measured_anew_in_silence(nnunet_folders: Path, capsys: pytest.CaptureFixture) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 1, 0)
    assert run_command("plan_and_preprocess", "-d", "902", "--no_pp", "--shard", "0/2", "--clean") == 2
    assert "--clean and --no_pp --shard exclude each other" in capsys.readouterr().err


def test_configurations_whose_parent_is_not_planned_any_more_are_dropped(
    nnunet_folders: Path, planned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = nnunet_folders / "preprocessed" / "Dataset902_Pool"
    folder.mkdir()
    text = (planned / "preprocessed" / "Dataset902_Pool" / "nnsslPlans.json").read_text()
    old = json.loads(text)
    old["configurations"] |= {
        "3d_lowres": old["configurations"]["3d_fullres"],
        "of_lowres": {"inherits_from": "3d_lowres", "batch_size": 3},
        "of_that": {"inherits_from": "of_lowres"},
        "of_fullres": {"inherits_from": "3d_fullres"},
        "of_mine": {"inherits_from": "of_fullres"},
    }
    (folder / "nnsslPlans.json").write_text(json.dumps(old))
    with caplog.at_level("WARNING"):
        save_plans(json.loads(text), "Dataset902_Pool")
    found = check_plans(read_plans("Dataset902_Pool", "nnsslPlans"), "plans")["configurations"]
    assert {"of_fullres", "of_mine"} <= found.keys()
    assert not {"3d_lowres", "of_lowres", "of_that"} & found.keys()
    assert "of_lowres" in caplog.text and "of_that" in caplog.text


@pytest.mark.parametrize(("value", "inside"), [("0", "1"), ("5", "5"), (None, None)])
def test_planning_where_no_worker_is_wished(
    value: str | None, inside: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_n_proc_DA", value)
    with _one_worker_at_least():
        assert os.environ.get("nnUNet_n_proc_DA") == inside
    assert os.environ.get("nnUNet_n_proc_DA") == value


def test_a_number_of_workers_that_is_none_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "many")
    with pytest.raises(NnsslError, match="nnUNet_n_proc_DA=many"), _one_worker_at_least():
        pass


def test_the_planner_itself_copes_without_workers(pretraining: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnssl.planners import get_planner

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans = get_planner("nnsslPlanner")("Dataset902_Pool", "S", "withoutWorkers").plan_experiment()
    try:
        assert "3d_fullres" in plans["configurations"]
    finally:
        (pretraining / "preprocessed" / "Dataset902_Pool" / "withoutWorkers.json").unlink()
