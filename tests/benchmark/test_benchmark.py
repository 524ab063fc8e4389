"""The real command on small data: its numbers add up, its ratio is of what it measured, and it leaves nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.launch import Request

from nnssl.benchmark.clock import PARTS, timed_step
from nnssl.benchmark.machine import PeakMemory, count_flops, matmul_peak
from nnssl.benchmark.measure import one_batch
from nnssl.data.store import CaseReader
from tests.cli.test_bad_input import error_line
from tests.conftest import run_command

SHORT = ("-device", "cpu", "--rounds", "2", "--steps", "1", "--set", "workers=0")
BENCH = ("benchmark", "-d", "902", "-c", "3d_fullres", *SHORT)
CPU = torch.device("cpu")


def measured(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "found.json"
    assert run_command(*arguments, "--json", str(file)) == 0
    found = json.loads(file.read_text())
    for s in found["settings"]:
        assert set(s["ms"]) == set(PARTS)
        assert all(s["ms"][part] > 0 for part in PARTS[1:])
        assert sum(s["ms"].values()) == pytest.approx(s["ms_per_step"], rel=0.5)
        low, high = min(s["rounds_ms"]), max(s["rounds_ms"])
        assert low <= s["ms_per_step"] <= high
        assert s["samples_per_s"] == pytest.approx(1000 * s["batch_size"] / s["ms_per_step"], rel=1e-2)
        assert s["schedule_hours"] == pytest.approx(s["ms_per_step"] * s["schedule_steps"] / 3.6e6, rel=1e-2)
        assert s["share_of_peak"] == pytest.approx(s["tflops"] / found["machine"]["matmul_peak_tflops"], rel=0.1)
    return found


def test_two_executors_side_by_side(pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pair = ("--set", "executor=tiles", "--set", "mask_ratio=0.75", "--against", "executor=dense")
    found = measured(tmp_path, *BENCH, "-m", "spark", *pair)
    tiles, dense = found["settings"]
    assert (tiles["executor"], dense["executor"]) == ("tiles", "dense")
    assert (tiles["set"], dense["set"]) == ("executor=tiles", "executor=dense")
    assert found["set"] == ["workers=0", "mask_ratio=0.75"]
    assert tiles["tflop_per_step"] < dense["tflop_per_step"], "hidden blocks are not computed, their margins are"
    [comparison] = found["comparisons"]
    assert comparison["ratio"] == pytest.approx(np.median(tiles["rounds_ms"]) / np.median(dense["rounds_ms"]), rel=0.01)
    assert comparison["ratio_low"] <= comparison["ratio_high"]
    printed = capsys.readouterr().out
    assert f"ratio {comparison['ratio']:.2f}" in printed
    assert "data_wait" in printed
    assert not list((tmp_path / "results").rglob("*")), "a measurement keeps nothing"


def test_batch_sizes_are_compared_per_sample(pretraining: Path, tmp_path: Path) -> None:
    short = ("--no-data", "--set", "epochs=2", "--set", "iterations=3", "--set", "batch_size=2")
    found = measured(tmp_path, *BENCH, "-m", "masked_region", *short, "--against", "batch_size=4")
    two, four = found["settings"]
    assert (two["batch_size"], four["batch_size"], two["schedule_steps"]) == (2, 4, 6)
    assert four["tflop_per_step"] == pytest.approx(2 * two["tflop_per_step"], rel=1e-3)
    [comparison] = found["comparisons"]
    expected = np.median(two["rounds_ms"]) / 2 / (np.median(four["rounds_ms"]) / 4)
    assert comparison["ratio"] == pytest.approx(expected, rel=0.01)


def test_waiting_for_data_is_seen(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crop = CaseReader.crop

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return crop(*arguments)

    monkeypatch.setattr(CaseReader, "crop", slow)
    few = ("-m", "rotation", "--set", "batch_size=2")
    [reading] = measured(tmp_path, *BENCH, *few)["settings"]
    [idle] = measured(tmp_path, *BENCH, *few, "--no-data")["settings"]
    assert reading["ms"]["data"] > 400
    assert idle["ms"]["data"] < 200
    assert reading["data_wait"] > idle["data_wait"]


def test_synthetic_needs_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    asked = ("--patch", "32", "48", "--channels", "2", "--set", "batch_size=1")
    found = measured(tmp_path, "benchmark", "--synthetic", "-c", "2d", *asked, *SHORT, "-m", "simsiam", "rotation")
    assert found["data"]["patch"] == [32, 48]
    assert found["data"]["channels"] == 2
    assert [s["method"] for s in found["settings"]] == ["simsiam", "rotation"]
    assert not [v for v in os.environ if v in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BENCH, "-m", "sparc"), "Did you mean 'spark'"),
        ((*BENCH, "-m", "spark", "--against", "executor"), "write it as key=value"),
        ((*BENCH, "-m", "spark", "--against", "executr=dense"), "Did you mean 'executor'"),
        ((*BENCH, "-m", "rotation", "--against", "executor=tiles"), "sees whole crops"),
        ((*BENCH, "-m", "spark", "spark"), "every method once"),
        ((*BENCH, "-m", "spark", "--patch", "32", "32", "32"), "goes with --synthetic"),
        (("benchmark", "-d", "77", "-c", "2d", "-m", "spark", "-device", "cpu"), "Datasets there: Dataset901"),
        (("benchmark", "-c", "2d", "-m", "spark"), "-d --synthetic is required"),
        (("benchmark", "--synthetic", "-c", "2d", "-m", "spark", "--patch", "32"), "needs 2 numbers"),
        (("benchmark", "--synthetic", "-c", "3d_lowres", "-m", "spark"), "knows 2d, 3d_fullres"),
        (("benchmark", "--synthetic", "-c", "2d", "-m", "spark", "-p", "my"), "-p goes with -d"),
    ],
)
def test_wrong_arguments(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "found.json"
    assert run_command(*arguments, "--json", str(file)) == 2
    assert said in error_line(capsys)
    assert not file.exists()


def test_the_timed_step_is_the_trainers(pretraining: Path) -> None:
    request = Request("902", "3d_fullres", "masked_region", sets=("batch_size=2",), device="cpu")
    trainers = [initialized_trainer(request, CPU)[1] for _ in range(2)]
    batch = one_batch(trainers[0])
    timed_step(trainers[0], iter([batch]), 0)
    trainers[1]._step(batch)
    for a, b in zip(*(t.method.parameters() for t in trainers)):
        assert torch.equal(a, b)
    assert trainers[0].network is trainers[0].method, "nothing is left replaced"
    assert "_views" not in vars(trainers[0])


def test_operations_of_a_known_network(pretraining: Path) -> None:
    """A forward pass of a matrix product is 2 n k m operations, its backward pass for the weights as many."""

    class Linear(torch.nn.Linear):
        def step(self, batch: Any) -> None:
            self(batch).sum().backward()

    class Trainer:
        method = network = Linear(8, 16, bias=False)
        _step = method.step

    assert count_flops(Trainer(), torch.ones(4, 8)) == 2 * (2 * 4 * 8 * 16)  # type: ignore[arg-type]


def test_the_peak_of_matrix_products_is_a_speed_that_products_reach() -> None:
    peak = matmul_peak(CPU, torch.float32)
    a = torch.randn(512, 512)
    begin = time.perf_counter()
    torch.matmul(a, a)
    assert 1e8 < 2 * 512**3 / (time.perf_counter() - begin) < 50 * peak


def test_memory_is_the_peak_and_not_what_is_left() -> None:
    before = PeakMemory(CPU)
    if before.peak() is None:
        pytest.skip("this system tells no peak that can be started anew")
    kept = torch.ones(10 * 2**20)  # 40 MiB
    torch.ones(25 * 2**20).sum()  # 100 MiB, freed again
    assert 130 * 2**20 < (before.peak() or 0) < 300 * 2**20
    after = PeakMemory(CPU)
    torch.ones(10 * 2**20).sum()
    assert (after.peak() or 0) < 100 * 2**20, "an earlier peak is forgotten"
    assert kept[0] == 1
