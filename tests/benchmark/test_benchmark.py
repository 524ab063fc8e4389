"""The real command on small data: its numbers add up, its ratio is of what it measured, and it leaves nothing."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.launch import Request
from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.benchmark.clock import PARTS, StepClock, timed_step, watched
from nnssl.benchmark.machine import PeakMemory, matmul_peak
from nnssl.benchmark.measure import one_batch
from nnssl.benchmark.operations import operation_counter
from nnssl.benchmark.synthetic import default_patch
from nnssl.benchmark.table import as_lines
from nnssl.data.store import CaseReader
from nnssl.errors import NnsslError
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
        assert s["share_of_peak"] == pytest.approx(
            s["tflops"] / found["machine"]["matmul_peak_tflops"], rel=0.1, abs=2e-3
        )
    return found


def test_two_executors_side_by_side(pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pair = ("--set", "executor=tiles", "--set", "mask_ratio=0.75", "--against", "executor=dense")
    found = measured(tmp_path, *BENCH, "-m", "spark", *pair)
    tiles, dense = found["settings"]
    assert (tiles["executor"], dense["executor"]) == ("tiles", "dense")
    assert (tiles["set"], dense["set"]) == ("executor=tiles", "executor=dense")
    assert found["set"] == ["workers=0", "mask_ratio=0.75"]
    [comparison] = found["comparisons"]
    assert comparison["ratio"] == pytest.approx(np.median(tiles["rounds_ms"]) / np.median(dense["rounds_ms"]), rel=0.01)
    assert comparison["ratio_low"] <= comparison["ratio_high"]
    printed = " ".join(capsys.readouterr().out.split())  # lines are wrapped where the terminal ends
    assert re.search(
        rf"ratio {comparison['ratio'] - 0.01:.2f}|ratio {comparison['ratio']:.2f}|ratio {comparison['ratio'] + 0.01:.2f}",
        printed,
    )
    assert "data_wait" in printed
    assert not list((tmp_path / "results").rglob("*")), "a measurement keeps nothing"
    saved = dense["tflop_per_step"] - tiles["tflop_per_step"]
    of_encoder = saved / (1e-12 * operations_of_encoder(dense["batch_size"]))
    # The visible quarter is computed, with margins that are multiplied in the backward pass of strided convolutions only:
    # at most 4 instead of 3 products along each of three axes, in one of three passes.
    least = 1 - 0.25 * (2 + (4 / 3) ** 3) / 3
    assert least < of_encoder < 0.75, "hidden blocks are not computed, all else is"


def operations_of_encoder(batch: int) -> int:
    """Of forward and backward pass on whole crops."""
    request = Request("902", "3d_fullres", "spark", sets=("mask_ratio=0.75",), device="cpu")
    trainer = initialized_trainer(request, CPU)[1]
    x = torch.randn(batch, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    with operation_counter() as counter:
        sum(stage.sum() for stage in trainer.method.encoder(x)).backward()
    return int(counter.get_total_flops())


def test_operations_that_memory_does_not_suffice_to_count_are_left_out(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting runs a step without torch.compile, which needs more memory than the one that is timed."""
    step = nnsslTrainer._step

    def uncompiled_is_too_large(trainer: nnsslTrainer, batch: Any) -> None:
        step(trainer, batch)
        if is_counting():
            raise torch.OutOfMemoryError("CUDA out of memory")

    def is_counting() -> bool:
        return bool(torch.utils._python_dispatch._get_current_dispatch_mode_stack())

    monkeypatch.setattr(nnsslTrainer, "_step", uncompiled_is_too_large)
    file = tmp_path / "found.json"
    assert run_command(*BENCH, "-m", "rotation", "--set", "batch_size=2", "--json", str(file)) == 0
    [found] = json.loads(file.read_text())["settings"]
    assert [found[key] for key in ("tflop_per_step", "tflops", "share_of_peak")] == [None] * 3
    assert found["ms_per_step"] > 0
    printed = capsys.readouterr().out
    assert re.search(r"^rotation: operations are not counted, .* without\s+torch.compile", printed, re.MULTILINE)
    assert re.search(r"rotation .* -  +- ", printed) or "- TFLOP/s, - of peak" in printed


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
        ((*BENCH, "-m", "spark", "--set", "executor=tiles", "--against", "executor=tiles"), "measure the same"),
        ((*BENCH, "-m", "spark", "rotation", "--against", "mask_ratio=0.5"), "unknown setting 'mask_ratio'"),
        (("benchmark", "--synthetic", "-c", "2d", "-m", "spark", "--set", "batch_size=0"), "batch_size=0"),
        ((*BENCH, "-m", "spark", "--rounds", "0"), "--rounds"),
    ],
)
def test_wrong_arguments(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "found.json"
    assert run_command(*arguments, "--json", str(file)) == 2
    assert said in error_line(capsys)
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "missing" / "found.json"
    assert run_command("benchmark", "--synthetic", "-c", "2d", "-m", "spark", "--json", str(file)) == 2
    assert "there is no folder" in error_line(capsys)
    assert not file.parent.exists()


def test_a_cpu_gets_a_small_patch_unless_one_is_named() -> None:
    assert default_patch("3d_fullres", "L", "cpu") == [32, 32, 32]
    assert default_patch("2d", "S", "cpu") == [96, 96]
    assert default_patch("3d_fullres", "L", "cuda") == [160, 160, 160]
    with pytest.raises(NnsslError, match="knows 2d, 3d_fullres"):
        default_patch("3d_lowres", "S", "cpu")


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_of_a_step_that_accumulates_are_added_up(parts: int) -> None:
    """The clock sees the parts in whatever number they come."""

    class Trainer:
        device = CPU

        def _views(self, batch: int) -> int:
            time.sleep(0.01)
            return batch

        def network(self, views: int) -> int:
            time.sleep(0.02)
            return views

        def _optimiser_step(self) -> None:
            time.sleep(0.04)

        def _step(self, batch: int) -> None:
            views = self._views(batch)
            for _ in range(parts):
                self.network(views)
                time.sleep(0.03)  # backward
            self._optimiser_step()

    trainer: Any = Trainer()
    clock = StepClock(CPU)
    with watched(trainer, clock):
        clock.mark("data")
        trainer._step(1)
        clock.mark("optimiser")
    found = clock.seconds()
    for part, least in {
        "views": 0.01,
        "forward": 0.02 * parts,
        "backward": 0.03 * parts,
        "optimiser": 0.04,
    }.items():
        assert least <= found[part], part
    assert set(found) == set(PARTS) - {"data"}


FOUND: dict[str, Any] = {
    "machine": {
        "name": "A processor", "device": "cpu", "threads": 1, "precision": "float32", "compiled": False,
        "matmul_peak_tflops": 0.1,
    },
    "versions": {"torch": "2"},
    "data": {
        "dataset": "Dataset004_Hippocampus", "configuration": "3d_fullres", "patch": [40, 56, 40], "channels": 1,
        "cases": 200, "read_in_every_step": True,
    },
    "set": ["mask_ratio=0.75"],
    "rounds": 3,
    "steps_per_round": 2,
    "settings": [
        {
            "method": "spark", "set": f"executor={name}", "batch_size": 2, "samples_per_s": 3.25, "ms_per_step": 616.2,
            "ms": dict.fromkeys(PARTS, 123.4), "peak_memory": None, "tflops": 0.0438, "share_of_peak": 0.49,
            "data_wait": 0.02, "schedule_hours": 42.8, "schedule_steps": 250000,
        }
        for name in ("tiles", "dense")
    ],
    "comparisons": [
        {
            "method": "spark", "first": "executor=tiles", "second": "executor=dense", "ms_per_sample": [308.1, 422.7],
            "ratio": 0.73, "ratio_low": 0.4, "ratio_high": 0.78,
        }
    ],
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    lines = as_lines(FOUND, width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    told = [
        "executor=tiles",
        "executor=dense",
        "616.2",
        "0.0438",
        "49 %",
        "ratio 0.73",
        "42.8 hours",
        "mask_ratio=0.75",
    ]
    assert [what for what in told if what not in text] == []
    in_columns = any(line.startswith("method") for line in lines)
    assert in_columns == (width == 200)


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
