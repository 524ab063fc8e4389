"""Planning again never throws away what a user put into the plans, and stale data are not trained on in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nnssl.data.pool import check_origin, read_pool
from nnssl.errors import NnsslError
from tests.conftest import run_command


@pytest.fixture
def pool(planned: Path, nnunet_folders: Path) -> Path:
    """A copy of the planned datasets to change; returns the pool's preprocessed folder."""
    for kind in ("raw", "preprocessed"):
        for name in ("Dataset901_Target", "Dataset902_Pool"):
            shutil.copytree(planned / kind / name, nnunet_folders / kind / name)
    return nnunet_folders / "preprocessed" / "Dataset902_Pool"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def plan(*arguments: str) -> int:
    return run_command("plan_and_preprocess", "-d", "902", "-np", "1", *arguments)


def test_the_settings_block_survives(pool: Path) -> None:
    change(pool / "nnsslPlans.json", nnssl={"num_epochs": 7})
    assert plan("--like", "901", "--no_pp") == 0
    assert json.loads((pool / "nnsslPlans.json").read_text())["nnssl"] == {"num_epochs": 7}


def test_an_unplanned_configuration_changes_nothing(pool: Path, capsys: pytest.CaptureFixture) -> None:
    before = (pool / "nnsslPlans.json").read_bytes()
    assert plan("--size", "S", "-c", "3d_lowres") == 2
    assert "3d_lowres is not planned" in capsys.readouterr().err
    assert (pool / "nnsslPlans.json").read_bytes() == before


def test_the_report_remembers_other_configurations(pool: Path) -> None:
    report = pool / "nnsslPlans_report.json"
    content = json.loads(report.read_text())
    content["source"] = json.loads((pool / "dataset_fingerprint.json").read_text())["nnssl"]["source"]
    content["skipped"]["2d"] = {"case_x": "a reason"}
    report.write_text(json.dumps(content))
    assert plan("--like", "901", "-c", "3d_fullres") == 0
    assert json.loads(report.read_text())["skipped"]["2d"] == {"case_x": "a reason"}
    raw = pool.parent.parent / "raw" / "Dataset902_Pool" / "imagesTr"
    (raw / "case_004_0000.nii.gz").unlink()
    assert plan("--like", "901", "-c", "3d_fullres") == 0
    assert set(json.loads(report.read_text())["skipped"]) == {"fingerprint", "3d_fullres"}, "old reasons are void now"


def test_data_made_for_other_plans_are_refused(pool: Path) -> None:
    fingerprint = json.loads((pool / "dataset_fingerprint.json").read_text())
    plans = json.loads((pool / "nnsslPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    found = read_pool(pool, "nnsslPlans_3d_fullres")
    check_origin(found, fingerprint, plans, configuration)
    check_origin(found, fingerprint, plans, {**configuration, "batch_size": 99})
    with pytest.raises(NnsslError, match="run nnssl_plan_and_preprocess"):
        check_origin(found, fingerprint, plans, {**configuration, "spacing": [2.0, 2.0, 2.0]})
    fingerprint["nnssl"]["source"] = "other"
    with pytest.raises(NnsslError, match="other raw data"):
        check_origin(found, fingerprint, plans, configuration)
