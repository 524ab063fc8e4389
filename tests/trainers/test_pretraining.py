from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch
from nnssl.transfer import torch_files
from tests.conftest import run_command, run_folder

QUICK = ("902", "3d_fullres", "-m", "masked_region", "-device", "cpu", "--iterations", "4", "--set", "val_iterations=2")
TIMES = ("seconds", "train_seconds", "samples_per_s", "data_wait", "val_data_wait")


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def same_tensors(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)  # type: ignore[arg-type]
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[k], b[k]) for k in a)  # type: ignore[attr-defined, index]
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same_tensors(x, y) for x, y in zip(a, b))  # type: ignore[arg-type]
    return a == b


@pytest.fixture
def results(pretraining: Path, tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_a_run_writes_everything_and_can_be_repeated(results: Path) -> None:
    for name in ("a", "b"):
        assert run_command("pretrain", *QUICK, "--epochs", "2", "--name", name) == 0
    folders = [run_folder(results, f"nnsslTrainer_MaskedRegion_{n}") for n in "ab"]
    files = {p.name for p in folders[0].iterdir() if not p.name.startswith("training_log")}
    assert files == {
        "checkpoint_final.pth", "config.json", "encoder.pth", "metrics.jsonl", "nnunet_init.pth", "preview.png",
        "progress.png",
    }  # fmt: skip
    assert metrics(folders[0]) == metrics(folders[1]), "two runs with one seed must see the same and learn the same"
    assert metrics(folders[0])[1]["val_loss"] < metrics(folders[0])[0]["train_loss"]
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["config"]["options"]["mask_ratio"] == 0.6
    assert config["config"]["lr"] == 6e-3, "the resolved value is saved, not 'default'"
    names = json.dumps([f"case_{i:03d}" for i in range(5)])
    raw = (folders[0] / "encoder.pth").read_bytes()
    assert not any(n.encode() in raw for n in json.loads(names)), "case names must not leave"
    assert str(results).encode() not in raw


@pytest.mark.parametrize("stop_after", [3, 4, 6])
def test_stopped_and_continued_equals_uninterrupted(
    results: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """Stopped within an epoch, at its end, and within the next: the same weights, moments and rows, bit for bit."""
    assert run_command("pretrain", *QUICK, "--epochs", "3", "--name", "whole") == 0
    step, done = nnsslTrainer._step, [0]

    def counted(self: nnsslTrainer, batch: object) -> None:
        step(self, batch)  # type: ignore[arg-type]
        done[0] += 1
        if done[0] == stop_after:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(nnsslTrainer, "_step", counted)
    stopped = ("--epochs", "3", "--name", "stopped")
    assert run_command("pretrain", *QUICK, *stopped) == 128 + signal.SIGUSR1
    assert done[0] == stop_after
    assert run_command("pretrain", *QUICK, *stopped, "--c") == 0
    whole, continued = (run_folder(results, f"nnsslTrainer_MaskedRegion_{n}") for n in ("whole", "stopped"))
    assert metrics(whole) == metrics(continued)
    a, b = (torch_files.load(f / "checkpoint_final.pth") for f in (whole, continued))
    for key in ("method_state", "optimizer_state", "epoch", "step"):
        assert same_tensors(a[key], b[key]), key


def test_validation_is_read_by_the_reading_processes(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same crops as read here; what goes wrong there leaves no process behind; and the waiting is told."""
    validate, found = nnsslTrainer.validate, []

    def compared(self: nnsslTrainer, batches: Iterator[CropBatch] | None = None) -> dict[str, float]:
        assert batches is not None
        assert len(multiprocessing.active_children()) == 2
        found.append((validate(self, batches), validate(self)))
        if self.state.epoch == 1:
            raise NnsslError("in the second validation")
        return found[-1][0]

    monkeypatch.setattr(nnsslTrainer, "validate", compared)
    assert run_command("pretrain", *QUICK, "--epochs", "3", "--set", "workers=2") == 2
    assert not multiprocessing.active_children()
    assert len(found) == 2
    assert all(read == here for read, here in found)
    folder = run_folder(results)
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= row["val_data_wait"] <= 1
    log = next(folder.glob("training_log*")).read_text()
    assert f"(validation {100 * row['val_data_wait']:.0f} %)" in log


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_leaves(results: Path, processes: int) -> None:
    """The real command. Alone, the signal reaches its reading processes too, as a scheduler sends it; with several ranks
    only the parent gets it and must hand it on."""
    command = [sys.executable, "-m", "nnssl.cli.pretrain", *QUICK, "--epochs", "1000", "-num_gpus", str(processes)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    folder = run_folder(results)
    deadline = time.monotonic() + 240
    while not (folder / "checkpoint_latest.pth").exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if processes == 1:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Continue with --c" in output
    assert "Traceback" not in output
    assert torch_files.load(folder / "checkpoint_latest.pth")["epoch"] >= 1


def test_an_existing_run_is_never_overwritten_by_accident(results: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command("pretrain", *QUICK, "--epochs", "1") == 0
    before = (run_folder(results) / "encoder.pth").read_bytes()
    assert run_command("pretrain", *QUICK, "--epochs", "1", "--seed", "1") == 2
    assert "--c" in capsys.readouterr().err
    assert (run_folder(results) / "encoder.pth").read_bytes() == before
    assert run_command("pretrain", *QUICK, "--epochs", "1", "--seed", "1", "--overwrite") == 0
    assert (run_folder(results) / "encoder.pth").read_bytes() != before


def test_a_continued_run_keeps_its_settings(results: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command("pretrain", *QUICK, "--epochs", "1") == 0
    assert run_command("pretrain", *QUICK, "--epochs", "2", "--c") == 2
    assert "epochs is 1 there, not 2" in capsys.readouterr().err


def test_fold_keeps_validation_cases_out(results: Path) -> None:
    assert run_command("pretrain", *QUICK, "--epochs", "1", "-f", "0") == 0
    encoder = torch_files.load(run_folder(results, fold="0") / "encoder.pth")
    assert encoder["provenance"]["cases"] == 4
    assert len(encoder["provenance"]["case_digests"]) == 4


def test_2d_runs(results: Path) -> None:
    arguments = ["902", "2d", *QUICK[2:], "--epochs", "1", "--batch-size", "4"]
    assert run_command("pretrain", *arguments) == 0
    folder = results / "Dataset902_Pool" / "nnsslTrainer_MaskedRegion__nnsslPlans__2d" / "fold_all"
    assert (folder / "nnunet_init.pth").is_file()


def test_dry_run_writes_nothing(results: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command("pretrain", *QUICK, "--dry-run") == 0
    printed = capsys.readouterr().out
    for word in ("network", "parameters", "memory", "s per step", "would write"):
        assert word in printed
    assert not list(results.rglob("*.*")), "a dry run must not leave files"


def test_the_other_door_nnunetv2_train(results: Path) -> None:
    """`nnUNetv2_train -tr nnsslTrainer_MaskedRegion` finds the trainer and runs it (stopped after a step or two)."""
    code = (
        "import sys, os, signal\n"
        "from nnssl.trainers.pretraining import nnsslTrainer\n"
        "step = nnsslTrainer._step\n"
        "def one(self, batch):\n"
        "    step(self, batch)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "nnsslTrainer._step = one\n"
        "sys.argv = ['nnUNetv2_train', '902', '3d_fullres', 'all', '-p', 'nnsslPlans', '-tr', "
        "'nnsslTrainer_MaskedRegion', '-device', 'cpu']\n"
        "from nnunetv2.run.run_training import run_training_entry\n"
        "run_training_entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout + done.stderr
    assert (run_folder(results) / "checkpoint_latest.pth").is_file()


@pytest.mark.slow
def test_two_processes_agree(results: Path) -> None:
    """-num_gpus 2 on the CPU (gloo): one set of files, and each rank did its half of the batch."""
    command = [sys.executable, "-m", "nnssl.cli.pretrain", *QUICK, "--epochs", "2", "-num_gpus", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(metrics(run_folder(results))) == 2
    assert run_command("pretrain", *QUICK, "--epochs", "2", "--name", "alone") == 0
    alone = metrics(run_folder(results, "nnsslTrainer_MaskedRegion_alone"))
    for row, other in zip(metrics(run_folder(results)), alone):
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=0.5)


@pytest.mark.slow
def test_an_error_in_a_rank_is_one_line(results: Path) -> None:
    command = [sys.executable, "-m", "nnssl.cli.pretrain", *QUICK, "-num_gpus", "2", "--set", "block=7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "must divide the patch size" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_never_began_leaves_no_folder(results: Path) -> None:
    assert run_command("pretrain", *QUICK, "--set", "block=7") == 2
    assert not run_folder(results).exists()


def test_non_finite_loss_stops_with_advice(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from nnssl.methods import Losses
    from nnssl.methods.masked_region import MaskedRegion

    forward = MaskedRegion.forward
    monkeypatch.setattr(
        MaskedRegion, "forward", lambda self, views: Losses(forward(self, views).total * float("nan"), {})
    )
    assert run_command("pretrain", *QUICK, "--epochs", "2") == 2
    assert "start again with a lower --lr" in capsys.readouterr().err
