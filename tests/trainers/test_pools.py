"""Several datasets, weights, balance and thinning in real runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nnssl.trainers import empty_crops
from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.transfer import torch_files
from tests.conftest import run_command, run_folder
from tests.trainers.test_pretraining import metrics, same_tensors

BRIEF = ("-m", "masked_region", "-device", "cpu", "--iterations", "4", "--batch-size", "2", "--set", "val_iterations=1")
TWO = ("902", "3d_fullres", "--with", "901", *BRIEF)


@pytest.fixture
def datasets(planned: Path, pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the preprocessed datasets to change; 901 holds a case of 902, under another name."""
    folder = tmp_path / "preprocessed"
    shutil.copytree(planned / "preprocessed", folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder))
    ours, theirs = (
        json.loads((folder / name).read_text()) for name in (POOL.format("902_Pool"), POOL.format("901_Target"))
    )
    theirs["cases"][5]["digest"] = ours["cases"][0]["digest"]
    (folder / POOL.format("901_Target")).write_text(json.dumps(theirs))
    return folder


POOL = "Dataset{}/nnsslPlans_3d_fullres_pool.json"


def log_of(folder: Path) -> str:
    return "".join(p.read_text() for p in folder.glob("training_log_*.txt"))


def weights_file(folder: Path, text: str) -> str:
    path = folder / "weights.csv"
    path.write_text("case,dataset,weight\n" + text)
    return f"case_weights={path}"


def test_a_run_on_two_datasets(datasets: Path, tmp_path: Path) -> None:
    arguments = (*TWO, "--epochs", "1", "--set", "dataset_weights=1,3", "--set", "balance=dataset")
    weights = weights_file(tmp_path, "case_001,Dataset902_Pool,0\ncase_002,901,2\ncase_002,Dataset901_Target,2\n")
    assert run_command("pretrain", *arguments, "--set", weights) == 0
    folder = run_folder(tmp_path / "results")
    log = log_of(folder)
    assert "1 case(s) of Dataset901_Target are in an earlier dataset too (same voxels): used once" in log
    assert "Dataset902_Pool: 4 cases, 25.0 % of the crops" in log
    assert "Dataset901_Target: 5 cases, 75.0 % of the crops" in log
    assert "1 row(s) name no case of the pool, for example case_002" in log, "dataset names are written out"
    provenance = torch_files.load(folder / "encoder.pth")["provenance"]
    assert provenance["dataset_names"] == ["Dataset902_Pool", "Dataset901_Target"]
    assert provenance["cases_by_dataset"] == {"Dataset902_Pool": 4, "Dataset901_Target": 5}
    assert provenance["cases"] == len(provenance["case_digests"]) == 9
    raw = (folder / "encoder.pth").read_bytes()
    assert b"case_00" not in raw and str(tmp_path).encode() not in raw, "neither case names nor paths leave"
    assert provenance["subject_scan_digests"] is None, "no subject is known"
    assert "empty_crops" in metrics(folder)[0]


def test_stopped_and_continued_with_datasets_and_weights(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Bit for bit, in the middle of an epoch, without repeating a setting; other weights are another run."""
    weights = weights_file(tmp_path, "case_002,Dataset901_Target,2.5\ncase_003,Dataset902_Pool,0.3\n")
    arguments = (*TWO, "--epochs", "3", "--set", weights, "--set", "dataset_weights=2,1")
    assert run_command("pretrain", *arguments, "--name", "whole") == 0
    step, done = nnsslTrainer._step, [0]

    def counted(self: nnsslTrainer, batch: object) -> None:
        step(self, batch)  # type: ignore[arg-type]
        done[0] += 1
        if done[0] == 6:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(nnsslTrainer, "_step", counted)
    assert run_command("pretrain", *arguments, "--name", "stopped") == 128 + signal.SIGUSR1
    again = ("pretrain", "902", "3d_fullres", "-m", "masked_region", "-device", "cpu", "--name", "stopped", "--c")
    assert run_command(*again, "--with", "902") == 2
    assert "with_datasets is ['Dataset901_Target'] there" in capsys.readouterr().err
    kept = (tmp_path / "weights.csv").read_text()
    weights_file(tmp_path, "case_002,Dataset901_Target,2.6\n")
    assert run_command(*again) == 2
    assert "or the weights of its cases, have changed" in capsys.readouterr().err
    (tmp_path / "weights.csv").write_text(kept)
    assert run_command(*again, "--with", "901") == 0
    whole, continued = (
        run_folder(tmp_path / "results", f"nnsslTrainer_MaskedRegion_{n}") for n in ("whole", "stopped")
    )
    assert metrics(whole) == metrics(continued)
    a, b = (torch_files.load(f / "checkpoint_final.pth") for f in (whole, continued))
    for key in ("method_state", "optimizer_state", "pool_signature"):
        assert same_tensors(a[key], b[key]), key


def test_folds_hold_out_of_every_dataset(datasets: Path, tmp_path: Path) -> None:
    """Case 0 of 902 is case 5 of 901: where it is a validation case of either, no dataset trains on it."""
    theirs = {"train": [f"case_00{i}" for i in range(5)], "val": ["case_005"]}
    (datasets / "Dataset901_Target" / "splits_final.json").write_text(json.dumps([theirs]))
    ours = {"train": [f"case_00{i}" for i in range(4)], "val": ["case_004"]}
    (datasets / "Dataset902_Pool" / "splits_final.json").write_text(json.dumps([ours]))
    assert run_command("pretrain", *TWO, "--epochs", "1", "-f", "0") == 0
    folder = run_folder(tmp_path / "results", fold="0")
    assert "1 training case(s) have the voxels of a validation case, under another name: held out" in log_of(folder)
    provenance = torch_files.load(folder / "encoder.pth")["provenance"]
    digest = json.loads((datasets / POOL.format("901_Target")).read_text())["cases"][5]["digest"]
    assert provenance["cases_by_dataset"] == {"Dataset902_Pool": 3, "Dataset901_Target": 5}
    assert digest not in provenance["case_digests"]


def test_a_twin_of_a_validation_case_is_held_out_too(datasets: Path, tmp_path: Path) -> None:
    """Within one dataset, as ACDC has one: the same voxels under two names."""
    path = datasets / POOL.format("902_Pool")
    pool = json.loads(path.read_text())
    pool["cases"][1]["digest"] = pool["cases"][4]["digest"]
    path.write_text(json.dumps(pool))
    ours = {"train": [f"case_00{i}" for i in range(4)], "val": ["case_004"]}
    (datasets / "Dataset902_Pool" / "splits_final.json").write_text(json.dumps([ours]))
    assert run_command("pretrain", "902", "3d_fullres", *BRIEF, "--epochs", "1", "-f", "0") == 0
    folder = run_folder(tmp_path / "results", fold="0")
    assert "1 training case(s) have the voxels of a validation case" in log_of(folder)
    provenance = torch_files.load(folder / "encoder.pth")["provenance"]
    assert provenance["cases_by_dataset"] == {"Dataset902_Pool": 3}
    assert pool["cases"][4]["digest"] not in provenance["case_digests"]


def change_cases(path: Path, **columns: list[str]) -> list[dict]:
    """Write columns of a pool's index, one value per case."""
    pool = json.loads(path.read_text())
    for key, values in columns.items():
        for case, value in zip(pool["cases"], values, strict=True):
            case[key] = value
    path.write_text(json.dumps(pool))
    return pool["cases"]


def test_other_scans_of_a_validation_subject_are_held_out(datasets: Path, tmp_path: Path) -> None:
    """Also where only the voxels tell that a subject of one dataset is one of the other."""
    change_cases(datasets / POOL.format("902_Pool"), subject=["a", "b", "", "", "a"])
    change_cases(datasets / POOL.format("901_Target"), subject=["b", "", "", "c", "a", "a"])
    ours = {"train": [f"case_00{i}" for i in range(4)], "val": ["case_004"]}
    (datasets / "Dataset902_Pool" / "splits_final.json").write_text(json.dumps([ours]))
    theirs = {"train": [f"case_00{i}" for i in range(1, 6)], "val": ["case_000"]}
    (datasets / "Dataset901_Target" / "splits_final.json").write_text(json.dumps([theirs]))
    assert run_command("pretrain", *TWO, "--epochs", "1", "-f", "0") == 0
    folder = run_folder(tmp_path / "results", fold="0")
    assert "3 case(s) show the subject of a validation case: held out, too" in log_of(folder)
    provenance = torch_files.load(folder / "encoder.pth")["provenance"]
    assert provenance["cases_by_dataset"] == {"Dataset902_Pool": 3, "Dataset901_Target": 3}
    assert provenance["subject_scan_digests"] == [], "subjects are known, and all their scans are on one side"


def test_known_scans_of_trained_subjects_are_in_the_provenance(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of weight 0, and those that were measured and not preprocessed; no others, and no names."""
    path = datasets / POOL.format("902_Pool")
    cases = change_cases(path, subject=["person_a", "person_a", "person_b", "", ""])
    path.write_text(json.dumps({**json.loads(path.read_text()), "cases": [c for i, c in enumerate(cases) if i != 3]}))
    measured = json.loads((datasets / "Dataset902_Pool" / "dataset_fingerprint.json").read_text())["nnssl"]["cases"]
    (tmp_path / "raw" / "Dataset902_Pool").mkdir(parents=True)
    (tmp_path / "raw" / "Dataset902_Pool" / "subjects.csv").write_text("case,subject\ncase_003,person_a\n")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    weights = weights_file(tmp_path, "case_001,Dataset902_Pool,0\ncase_002,Dataset902_Pool,0\n")
    assert run_command("pretrain", "902", "3d_fullres", *BRIEF, "--epochs", "1", "--set", weights) == 0
    file = run_folder(tmp_path / "results") / "encoder.pth"
    provenance = torch_files.load(file)["provenance"]
    assert provenance["case_digests"] == sorted(measured[c] for c in ("case_000", "case_004"))
    assert provenance["subject_scan_digests"] == sorted(measured[c] for c in ("case_001", "case_003"))
    assert b"person_" not in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--with", "901", "902"), "Dataset902_Pool is in the pool already"),
        (("--with", "77"), "dataset 77 not found in nnUNet_preprocessed"),
        (
            ("--with", "901", "--set", "dataset_weights=1"),
            "one weight per dataset, 2 for Dataset902_Pool, Dataset901_Target",
        ),
        (("--with", "901", "--set", "dataset_weights=1,0"), "must be above 0"),
        (("--set", "balance=patients"), "balance='patients'"),
        (("--set", "case_weights=none.csv"), "does not exist"),
        (("--set", "thin_slices=4"), "thin_slices is for 2D runs"),
        (("--set", "thin_slices=40"), "less than or equal to 20"),
    ],
)
def test_bad_requests_are_one_clear_line(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], said: str
) -> None:
    assert run_command("pretrain", "902", "3d_fullres", *BRIEF, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "results").rglob("fold_all"))


def test_empty_crops_are_logged_and_warned_of(
    pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the crops is empty; with a threshold above their contrast all are."""
    arguments = ("pretrain", "902", "3d_fullres", *BRIEF, "--epochs", "2")
    assert run_command(*arguments, "--name", "usual") == 0
    usual = run_folder(tmp_path / "results", "nnsslTrainer_MaskedRegion_usual")
    assert [row["empty_crops"] for row in metrics(usual)] == [0, 0]
    assert "show nothing" not in log_of(usual)
    monkeypatch.setattr(empty_crops, "EMPTY_BELOW", 100.0)
    assert run_command(*arguments, "--name", "high") == 0
    high = run_folder(tmp_path / "results", "nnsslTrainer_MaskedRegion_high")
    assert [row["empty_crops"] for row in metrics(high)] == [1, 1]
    assert "WARNING: 100 % of the crops show nothing but air or padding: raise body_share" in log_of(high)


def test_balance_between_subjects(datasets: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("pretrain", "902", "3d_fullres", *BRIEF, "--dry-run", "--set", "balance=dataset+subject")
    assert run_command(*arguments) == 0
    printed = capsys.readouterr().out
    assert "does nothing for subjects: the pool knows none" in printed
    assert "does nothing for datasets: there is one" in printed
    path = datasets / POOL.format("902_Pool")
    index = json.loads(path.read_text())
    for case, subject in zip(index["cases"], ("a", "a", "a", "b", "")):
        case["subject"] = subject
    path.write_text(json.dumps(index))
    assert run_command(*arguments) == 0
    assert "2 subjects, and 1 case(s) of which none is known" in capsys.readouterr().out


def test_datasets_that_are_planned_otherwise_are_refused(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = datasets / "Dataset901_Target" / "nnsslPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]
    path.write_text(json.dumps(plans))
    assert run_command("pretrain", *TWO) == 2
    said = capsys.readouterr().err
    assert (
        "Dataset902_Pool and Dataset901_Target are not planned alike: spacing is 1x1x1 in the first and 2x1x1" in said
    )


def test_a_dataset_preprocessed_from_other_data_is_refused(datasets: Path, capsys: pytest.CaptureFixture) -> None:
    path = datasets / POOL.format("901_Target")
    path.write_text(json.dumps({**json.loads(path.read_text()), "origin": "another"}))
    assert run_command("pretrain", *TWO) == 2
    assert "Dataset901_Target/nnsslPlans_3d_fullres were made from other raw data" in capsys.readouterr().err


def test_thinned_slices(datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("902", "2d", "--with", "901", *BRIEF, "--epochs", "1", "--set", "thin_slices=8")
    assert run_command("pretrain", *arguments, "--dry-run") == 0
    assert "slices kept" in capsys.readouterr().out
    report_file = datasets / "Dataset902_Pool" / "nnsslPlans_2d_thinning.json"
    assert not report_file.exists(), "a dry run reports nothing into files"
    assert run_command("pretrain", *arguments) == 0
    report = json.loads(report_file.read_text())
    assert report["slices"] == report["kept"] + report["near_duplicates"] + report["empty"]
    assert 0 < report["kept"] < report["slices"]
    assert len(report["cases"]) == 11 and report["cases"][-1]["dataset"] == "Dataset901_Target"
    for name in ("902_Pool", "901_Target"):
        assert (datasets / f"Dataset{name}" / "nnsslPlans_2d_slices.npz").is_file()
    assert run_command("pretrain", "902", "2d", "-m", "next_slice", *BRIEF[2:], "--set", "thin_slices=8") == 2
    assert "next_slice reads stacks" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_datasets_weights_and_hashes(datasets: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "nnssl.cli.pretrain", "902", "2d", "--with", "901", *BRIEF, "--epochs", "1",
        "-num_gpus", "2", "--set", "thin_slices=6", "--set", "dataset_weights=1,2",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (datasets / "Dataset901_Target" / "nnsslPlans_2d_slices.npz").is_file()
    folder = tmp_path / "results" / "Dataset902_Pool" / "nnsslTrainer_MaskedRegion__nnsslPlans__2d" / "fold_all"
    assert len(metrics(folder)) == 1
