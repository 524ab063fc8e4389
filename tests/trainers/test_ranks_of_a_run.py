"""The real command in several processes: the same run as in one, and none is lost when a process dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nnssl.trainers.building import refuse_empty_shares
from nnssl.trainers.launch import Request, launch
from nnssl.trainers.processes import run_processes

from nnssl.data.loader import rank_share
from nnssl.errors import NnsslError
from nnssl.transfer import torch_files
from tests.conftest import run_folder
from tests.reliability.harness import alike
from tests.trainers import rank_work
from tests.trainers.test_pretraining import metrics

SMALL = {"iterations": 2, "batch_size": 3}
SETS = ("workers=0", "val_iterations=1", "save_every=1")


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 16, 58])
@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 16])
def test_a_batch_is_shared_out_exactly(batch: int, world: int) -> None:
    if batch < world:
        with pytest.raises(NnsslError, match=f"batch of {batch} crop.*over {world} processes: raise --batch-size"):
            refuse_empty_shares(batch, world)
        return
    refuse_empty_shares(batch, world)
    shares = [rank_share(batch, rank, world) for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(batch))
    assert {len(share) for share in shares} <= {batch // world, -(-batch // world)}


def request(method: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "902", "configuration": "3d_fullres", "method": method, "name": name, "device": "cpu", "sets": SETS,
        "flags": {"epochs": 2, **SMALL}, **more,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["masked_region", "simclr"])
def test_two_processes_with_unequal_shares_are_one(method: str, pretraining: Path) -> None:
    """Crops 1 and 2: weights, losses, terms and share of empty crops, over epochs, as one process has them."""
    results = Path(os.environ["nnUNet_results"])
    assert run_processes(partial(rank_work.train_as_one, request(method, "one")), 1, False) == 0
    assert run_processes(partial(rank_work.train_as_one, request(method, "two")), 2, False) == 0
    trainer = {"masked_region": "nnsslTrainer_MaskedRegion", "simclr": "nnsslTrainer_SimCLR"}[method]
    one, two = (run_folder(results, f"{trainer}_{name}") for name in ("one", "two"))
    timed = ("seconds", "train_seconds", "samples_per_s", "data_wait")
    for row, other in zip(metrics(one), metrics(two), strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - set(timed):
            assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-5), key
    weights = [torch_files.load(folder / "encoder.pth")["network_weights"] for folder in (one, two)]
    for key, value in weights[0].items():
        # a bias before a norm has a gradient of rounding alone, and Adam makes full steps of any gradient, however small
        if not key.endswith((".conv.bias", ".all_modules.0.bias")):
            far = (value - weights[1][key]).abs() > 1e-4 + 1e-2 * value.abs()
            assert far.float().mean() < 0.02, key


@pytest.mark.slow
def test_all_processes_see_the_trouble_of_one(pretraining: Path, tmp_path: Path) -> None:
    """Or one would go back to its checkpoint alone, and the others would average with weights of another step."""
    job = partial(rank_work.trouble_of_the_last_one, folder=str(tmp_path))
    assert launch(Request(**request("masked_region", "trouble", processes=2)), job) == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["3", "3"]


@pytest.mark.slow
def test_what_the_first_reads_is_what_all_have(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Every kind of tensor, bit for bit; and where it cannot read, all leave with its one line."""
    assert run_processes(partial(rank_work.read_by_the_first, str(tmp_path), True), 2, False) == 0
    for rank in range(2):
        assert alike(torch_files.load(tmp_path / f"rank_{rank}.pth"), rank_work.SENT)
    assert run_processes(partial(rank_work.read_by_the_first, str(tmp_path), False), 2, False) == 2
    assert capfd.readouterr().err.count("there is no whole checkpoint") == 1


@pytest.mark.slow
def test_both_ranks_go_back_to_the_same_place_at_the_same_rate(pretraining: Path, tmp_path: Path) -> None:
    """NaN in the share of one: the gradient is averaged, so both skip the steps, and both go back.

    What the second one sees of the run's folder is older; it gets what the first one reads.
    """
    sets = (*SETS, "nonfinite_steps=2")
    arguments = request("masked_region", "back", flags={"epochs": 3, **SMALL}, sets=sets)
    assert run_processes(partial(rank_work.train_with_trouble, arguments, [2, 3], str(tmp_path)), 2, False) == 0
    first, second = (torch_files.load(tmp_path / f"rank_{rank}.pth") for rank in range(2))
    assert (first["epoch"], first["step"], first["rate"], first["rollbacks"]) == (1, 0, 0.5, 1)
    for key in first.keys() - {"history", "sums"}:
        assert alike(first[key], second[key]), key
    folder = run_folder(Path(os.environ["nnUNet_results"]), "nnsslTrainer_MaskedRegion_back")
    assert torch_files.load(folder / "checkpoint_final.pth")["rate"] == 0.5
    assert [row["skipped_steps"] for row in metrics(folder)] == [0, 0, 0]


@pytest.mark.slow
def test_a_continued_run_is_read_by_the_first_process(pretraining: Path) -> None:
    """The others' network disk does not give it: then none falls back to an older one, or leaves."""
    arguments = request("masked_region", "read", flags={"epochs": 1, **SMALL})
    assert run_processes(partial(rank_work.train_as_one, arguments), 2, False) == 0
    folder = run_folder(Path(os.environ["nnUNet_results"]), "nnsslTrainer_MaskedRegion_read")
    (folder / "encoder.pth").unlink()
    again = {**arguments, "resume": True, "flags": {}, "sets": ()}
    assert run_processes(partial(rank_work.train_where_the_first_alone_can_read, again), 2, False) == 0
    assert (folder / "encoder.pth").is_file()


def start(log: Path, *arguments: str, processes: int = 2) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "nnssl.cli.pretrain", "902", "3d_fullres", "-m", "masked_region", "-device", "cpu",
        "--iterations", "2", "--batch-size", "3", "-num_gpus", str(processes), *arguments,
        *(word for text in SETS for word in ("--set", text)),
    ]  # fmt: skip
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(fulfilled: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 500
    while not fulfilled():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def rows(folder: Path) -> int:
    return len(metrics(folder)) if (folder / "metrics.jsonl").is_file() else 0


def ranks_of(command: int) -> list[int]:
    children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
    return [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_a_killed_rank_ends_the_run_which_goes_on_with_any_number(pretraining: Path, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", run_folder(Path(os.environ["nnUNet_results"]))
    run = start(log, "--epochs", "400")
    wait_until(lambda: rows(folder) >= 2, run, log)
    begin = time.monotonic()
    os.kill(ranks_of(run.pid)[1], signal.SIGKILL)
    assert run.wait(timeout=120) == 3, log.read_text()
    assert time.monotonic() - begin < 100
    errors = [line for line in log.read_text().splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert re.search(r"process 1 of 2 was killed \(SIGKILL.*--c goes on", errors[0])
    assert "Traceback" not in log.read_text()
    saved = torch_files.load(folder / "checkpoint_latest.pth")
    assert saved["epoch"] >= 1
    for processes in (1, 2):
        before = rows(folder)
        run = start(log, "--epochs", "400", "--c", processes=processes)
        wait_until(lambda: rows(folder) >= before + 2, run, log)  # noqa: B023
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=300) == 128 + signal.SIGTERM, log.read_text()
        assert f"continuing in epoch {saved['epoch'] + 1} after step {saved['step']}" in log.read_text()
        saved = torch_files.load(folder / "checkpoint_latest.pth")
    assert [row["epoch"] for row in metrics(folder)] == list(range(rows(folder)))
