"""What is checked before a study's first training, and what its record holds to tell it from another one."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnssl.cli.study import _command_of_all
from nnssl.errors import NnsslError
from nnssl.evaluate.study.cells import Cell, write_record
from nnssl.evaluate.study.preparation import _crops, prepare
from nnssl.evaluate.study.spec import StudyConfig, write_study
from tests.conftest import run_command
from tests.evaluate.test_study_cells import study

DATASET = "Dataset901_Target"


@pytest.fixture
def target(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planned target without its images, which nothing here reads."""
    folder = tmp_path / "preprocessed" / DATASET
    kept = shutil.ignore_patterns("*.b2nd", "*.pkl")
    shutil.copytree(pretraining / "preprocessed" / DATASET, folder, ignore=kept)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return folder


def of_target(target: Path, **changes: Any) -> StudyConfig:
    """A study of the planned target from scratch."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (target / "gt_segmentations").iterdir())
    content = {
        "dataset": DATASET, "configuration": "3d_fullres", "inits": {"scratch": {"schedule": "scratch"}}, "counts": [1],
        "seeds": [0], "training": names[:3], "validation": names[3:4], "test": names[4:],
    }  # fmt: skip
    config: StudyConfig = study(**{**content, **changes})
    return config


# ---------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"dataset": "Dataset999_Nothing"}, "plans 'nnsslPlans' of Dataset999_Nothing not found"),
        ({"plans": "otherPlans"}, "plans 'otherPlans' of Dataset901_Target not found"),
        ({"configuration": "3d_fulres"}, "Did you mean '3d_fullres'"),
        ({"test": ["typo"]}, "test names what is not among .* 3d_fullres: typo. Correct"),
        ({"validation": ["typo"]}, "validation names what is not among"),
        ({"training": ["typo"]}, "training names what is not among"),
    ],
)
def test_what_trainings_would_miss_is_said_before_anything_is_written(
    target: Path, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(NnsslError, match=text):
        prepare(of_target(target, **changes), tmp_path / "s", "c", "cpu")
    assert not (tmp_path / "s").exists()


def test_a_missing_reference_is_named(target: Path, tmp_path: Path) -> None:
    config = of_target(target)
    (target / "gt_segmentations" / f"{config.test[0]}.nii.gz").unlink()
    with pytest.raises(
        NnsslError, match=f"test names cases without a reference in .*gt_segmentations: {config.test[0]}"
    ):
        prepare(config, tmp_path / "s", "c", "cpu")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_one_line_of_the_command(
    target: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    write_study(of_target(target, test=["typo"]), tmp_path / "s.yaml")
    run = ("run", str(tmp_path / "s.yaml"), "-o", str(tmp_path / "s"), "-device", "cpu")
    assert run_command("study", *run, *more) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: test names what")
    assert said.count("\n") == 1


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_folder(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / "file").write_text("x")
    write_study(of_target(target), tmp_path / "s.yaml")
    assert run_command("study", "run", str(tmp_path / "s.yaml"), "-o", str(tmp_path / place), "-device", "cpu") == 2
    assert "is a file, and no folder" in capfd.readouterr().err


# ---------------------------------------------------------------- the same study?


def other_labels(target: Path, config: StudyConfig) -> None:
    """The same voxels, packed otherwise, are other bytes already."""
    path = target / "gt_segmentations" / f"{config.training[0]}.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b" ", 1))


def other_plans(target: Path, config: StudyConfig) -> None:
    content = json.loads((target / "nnsslPlans.json").read_text())
    content["configurations"][config.configuration]["batch_size"] += 1
    (target / "nnsslPlans.json").write_text(json.dumps(content))


@pytest.mark.parametrize("change,what", [(other_labels, "labels"), (other_plans, "plans")])
def test_cells_of_other_labels_or_plans_are_not_mixed(
    target: Path, tmp_path: Path, change: Callable[[Path, StudyConfig], None], what: str
) -> None:
    config, folder = of_target(target), tmp_path / "s"
    prepare(config, folder, "c", "cpu")
    prepare(config, folder, "c", "cpu")
    write_record(Cell("scratch", 1, 0).folder(folder), state="done")
    change(target, config)
    with pytest.raises(NnsslError, match=f"was made with other {what} of {DATASET}: choose another folder with -o"):
        prepare(config, folder, "c", "cpu")
    record = json.loads((folder / "study.json").read_text())
    del record["plans_sha256"], record["labels_sha256"]
    (folder / "study.json").write_text(json.dumps(record))
    prepare(config, folder, "c", "cpu")  # an earlier version kept no digests


def test_labels_mended_before_the_first_result_are_the_study_s_own(target: Path, tmp_path: Path) -> None:
    config, folder = of_target(target), tmp_path / "s"
    prepare(config, folder, "c", "cpu")
    before = json.loads((folder / "study.json").read_text())
    write_record(Cell("scratch", 1, 0).folder(folder), state="failed")
    other_labels(target, config)
    prepare(config, folder, "c", "cpu")
    after = json.loads((folder / "study.json").read_text())
    assert before["plans_sha256"] == after["plans_sha256"]
    assert before["labels_sha256"] != after["labels_sha256"]


@pytest.mark.parametrize("part", [["--job", "3/8"], ["--job=3/8"], []])
def test_the_command_of_a_record_is_that_of_the_whole_study(part: list[str]) -> None:
    given = ["nnssl_study", "run", "/home/somebody/s.yaml", "-o", "../out", *part, "--jobs", "2"]
    assert _command_of_all(given) == "nnssl_study run s.yaml -o ../out --jobs 2", (
        "reports are shared: no folders of people"
    )


def test_a_job_of_an_array_records_the_whole_study(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnssl.evaluate.study.jobs.run_study", lambda *_: (0, 0))
    write_study(of_target(target), tmp_path / "s.yaml")
    run = ["run", str(tmp_path / "s.yaml"), "-o", str(tmp_path / "s")]
    assert run_command("study", *run, "--job", "0/8") == 0
    assert json.loads((tmp_path / "s" / "study.json").read_text())["command"] == "nnssl_study run s.yaml -o s"


OWN = {"steps": 100, "config": {"batch_size": 4}}


@pytest.mark.parametrize(
    ("provenance", "crops"),
    [
        (OWN, 400),
        ({**OWN, "init": {"sha256": "0", "provenance": {"steps": 50, "config": {"batch_size": 2}}}}, 500),
        ({**OWN, "init": {"sha256": "0", "provenance": {"steps": 50}}}, None),  # an encoder of somebody else's
        ({**OWN, "init": None}, 400),
        ({**OWN, "init": "x"}, 400),
        ({**OWN, "config": "x"}, None),
        ({}, None),
    ],
)
def test_the_cost_of_a_pretraining_has_its_ancestors(provenance: dict[str, Any], crops: int | None) -> None:
    assert _crops(provenance) == crops
