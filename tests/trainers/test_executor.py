from __future__ import annotations

import json
import math
import re
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnssl.trainers import executor as executors
from nnssl.trainers.executor import AGREEMENT, disagreement, measure_executors, settle_executor
from nnssl.trainers.launch import Request, launch
from nnssl.trainers.run_config import RunConfig

from nnssl.errors import NnsslError
from nnssl.losses import Ranks
from nnssl.networks import DenseMasked, tile_conv
from tests.conftest import run_command, run_folder
from tests.methods.cases import SHAPES, make_crops, make_method, seeded
from tests.trainers.rank_steps import executor_by_own_clock

QUICK = ("902", "3d_fullres", "-device", "cpu", "--iterations", "3", "--epochs", "2", "--set", "val_iterations=2")
SPARK = (*QUICK, "-m", "spark")
LINE = re.compile(
    r"computed as '(\w+)', the faster way here: ([\d.]+) s per step with tiles, ([\d.]+) s dense, ratio ([\d.]+)"
)


def losses(folder: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def log_of(folder: Path) -> str:
    return next(folder.glob("training_log*")).read_text()


@pytest.fixture
def results(pretraining: Path, tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_auto_measures_says_so_and_is_the_run_of_its_choice(results: Path) -> None:
    assert run_command("pretrain", *SPARK, "--executor", "auto", "--name", "auto") == 0
    folder = run_folder(results, "nnsslTrainer_SparK_auto")
    found = LINE.search(log_of(folder))
    assert found, log_of(folder)
    chosen, tiles, dense, ratio = found[1], *(float(n) for n in found.groups()[1:])
    assert chosen == ("tiles" if ratio < 1 else "dense")
    assert tiles / dense == pytest.approx(ratio, abs=0.2)
    assert json.loads((folder / "config.json").read_text())["config"]["executor"] == chosen
    for name in ("tiles", "dense"):
        assert run_command("pretrain", *SPARK, "--executor", name, "--name", name) == 0
    auto, same, tiles_run, dense_run = (
        losses(run_folder(results, f"nnsslTrainer_SparK_{n}")) for n in ("auto", chosen, "tiles", "dense")
    )
    assert auto == same, "measuring must leave nothing behind"
    for a, b in zip(tiles_run, dense_run):
        assert a == pytest.approx(b, rel=1e-4), "the executors may part by rounding only"


def test_the_default_measures() -> None:
    assert RunConfig(method="spark").executor == "auto"


def test_a_continued_run_keeps_its_executor(results: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command("pretrain", *SPARK, "--executor", "tiles") == 0
    assert run_command("pretrain", *SPARK, "--executor", "dense", "--c") == 2
    assert "executor is tiles there, not dense" in capsys.readouterr().err
    assert run_command("pretrain", *SPARK, "--executor", "auto", "--c") == 0
    folder = run_folder(results, "nnsslTrainer_SparK")
    assert json.loads((folder / "config.json").read_text())["config"]["executor"] == "tiles"
    assert run_command("pretrain", *SPARK, "--c") == 0


def test_tiles_for_a_method_without_a_sparse_encoder_is_an_error(results: Path, capsys: pytest.CaptureFixture) -> None:
    masked = (*QUICK, "-m", "masked_region")
    assert run_command("pretrain", *masked, "--executor", "tiles") == 2
    assert "the encoder of masked_region sees whole crops" in capsys.readouterr().err
    assert not run_folder(results).exists()
    assert run_command("pretrain", *masked, "--executor", "auto") == 0
    assert "sparse encoder" not in log_of(run_folder(results))


def test_a_part_of_a_sum_has_the_choice_too(results: Path) -> None:
    assert run_command("pretrain", *QUICK, "-m", "spark+rotation", "--executor", "tiles") == 0
    assert "computed as 'tiles', as set" in log_of(run_folder(results, "nnsslTrainer_SparKPlusRotation"))


def test_a_dry_run_shows_the_measurement(results: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_command("pretrain", *SPARK, "--executor", "auto", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert LINE.search(shown)
    assert "peak (measuring both ways included)" in shown
    assert not run_folder(results, "nnsslTrainer_SparK").exists()


@pytest.mark.slow
def test_two_processes_choose_alike(results: Path, tmp_path: Path) -> None:
    """By the mean of what both have measured, and by the worse of their checks; each alone would choose differently."""
    clocks: list[list[dict[str, float]]] = [
        [{"tiles": 1.0, "dense": 2.0}, {"tiles": 4.0, "dense": 1.0}],
        [{"tiles": 1.0, "dense": 4.0}, {"tiles": 2.0, "dense": 1.0}],
        [{"tiles": 1.0, "dense": 9.0}, {"tiles": math.inf, "dense": 9.0}],  # what one cannot compute, none may
    ]
    assert all({min(c, key=c.__getitem__) for c in both} == {"tiles", "dense"} for both in clocks)
    clocks += [[{"tiles": 1.0, "dense": 2.0, "apart": apart} for apart in both] for both in ((0.0, 0.5), (0.5, 0.0))]
    job = partial(executor_by_own_clock, clocks=clocks, folder=str(tmp_path))
    request = Request(
        "902", "3d_fullres", "spark", device="cpu", processes=2, patience=120,
        flags={"batch_size": 2, "executor": "auto"}, sets=("workers=0",),
    )  # fmt: skip
    assert launch(request, job) == 0
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [[name, name] for name in ("dense", "tiles", "dense", "dense", "dense")], rank


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_measuring_leaves_the_method_as_it_was(norm: str) -> None:
    method: Any = make_method("spark", SHAPES["2d"])
    if norm == "Batch":
        for parent in list(method.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.InstanceNorm2d):
                    setattr(parent, name, torch.nn.BatchNorm2d(child.num_features))
        assert any("running_mean" in name for name in method.state_dict())
    method.eval()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    views = method.views(make_crops(method), seeded())
    expected, executor = method(views).total, method.executor
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    seconds = measure_executors(method, 2, torch.device("cpu"), nullcontext)
    assert torch.equal(torch.rand(1), drawn)
    assert set(seconds) == {"dense", "tiles"} and all(
        v > 0 and len(values) == 3 for values in seconds.values() for v in values
    )
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())
    assert not method.training and method.executor is executor
    assert torch.equal(method(views).total, expected)


def test_each_process_measures_for_itself() -> None:
    """One that runs out of memory leaves out passes; others that met it in their losses would wait for ever."""
    method: Any = make_method("spark", SHAPES["2d"])
    several = Ranks((2, 2), 0)
    method.assign_ranks(several)  # without a process group any question to the others is an error
    seconds = measure_executors(method, 2, torch.device("cpu"), nullcontext, rounds=1)
    assert set(seconds) == {"dense", "tiles"}
    assert method.ranks is several


def chosen_when_too_large(*names: str) -> tuple[Any, list[str]]:
    """A trainer whose method asks for more memory than there is when it computes in these ways, and what is logged."""
    method: Any = make_method("spark", SHAPES["2d"])

    def ask(*_: Any) -> None:
        if ("dense" if method.executor is DenseMasked else "tiles") in names:
            torch.empty(2**60, dtype=torch.uint8)

    method.register_forward_pre_hook(ask)
    trainer: Any = SimpleNamespace(
        method=method, run=RunConfig(method="spark", executor="auto", batch_size=2), device=torch.device("cpu"),
        local_rank=0, world_size=1, is_ddp=False, _autocast=nullcontext, _do_i_compile=lambda: False,
        precision=torch.float32,
    )  # fmt: skip
    return trainer, settle_executor(trainer)


@pytest.mark.parametrize(("large", "chosen"), [("dense", "tiles"), ("tiles", "dense")])
def test_a_way_that_memory_does_not_hold_loses(large: str, chosen: str) -> None:
    """The allocator itself refuses."""
    trainer, lines = chosen_when_too_large(large)
    assert trainer.run.executor == chosen
    assert len(lines) == 1 and f"'{chosen}'" in lines[0] and "memory of cpu is too small" in lines[0], lines
    assert "dense" in lines[0] if large == "dense" else "tiles" in lines[0]
    assert all(p.grad is None for p in trainer.method.parameters())
    if chosen == "tiles":
        trainer.method(trainer.method.views(make_crops(trainer.method), seeded())).total.backward()


def test_both_too_large_is_one_line() -> None:
    with pytest.raises(NnsslError, match="memory of the device is too small"):
        chosen_when_too_large("tiles", "dense")


def test_crops_that_are_too_large_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator refuses the views, before there is a step."""
    monkeypatch.setattr(executors, "views_of", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(NnsslError, match="memory of the device is too small"):
        chosen_when_too_large()


def test_other_errors_of_a_step_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "out_of_memory", lambda error: False)
    with pytest.raises(RuntimeError, match="allocate"):
        chosen_when_too_large("dense")


@pytest.mark.parametrize(("tiles", "chosen"), [(0.9, "tiles"), (1.1, "dense")])
def test_the_faster_one_is_chosen(tiles: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers in place of the clock, which cannot be asked to favour one."""

    class Trainer:
        method = make_method("spark", SHAPES["2d"])
        run = RunConfig(method="spark", executor="auto", batch_size=2)
        device, local_rank, world_size, is_ddp = torch.device("cpu"), 0, 1, False
        _autocast, precision = nullcontext, torch.float32

        def _do_i_compile(self) -> bool:
            return False

    monkeypatch.setattr(executors, "measure_executors", lambda *_: {"dense": [1.0, 9.0, 1.0], "tiles": [tiles] * 3})
    trainer: Any = Trainer()
    lines = settle_executor(trainer)
    assert trainer.run.executor == chosen
    assert f"ratio {tiles:.2f}" in lines[0]
    visible = trainer.method.views(make_crops(trainer.method), seeded())["visible"]
    made = trainer.method.executor(visible, SHAPES["2d"].size)
    assert type(made).__name__ == {"tiles": "TileSparse", "dense": "DenseMasked"}[chosen]


@pytest.mark.parametrize("precision", list(AGREEMENT))
def test_the_two_ways_agree_as_far_as_rounding(precision: torch.dtype) -> None:
    method: Any = make_method("spark", SHAPES["3d"])
    before = {k: v.clone() for k, v in method.state_dict().items()}

    def autocast() -> AbstractContextManager:
        return torch.autocast("cpu", precision, enabled=precision != torch.float32)

    assert 0 < disagreement(method, torch.device("cpu"), autocast, 2) < AGREEMENT[precision] / 5
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


@pytest.mark.parametrize(("batch", "compared"), [(1, 1), (2, 2), (6, 2)])
def test_no_more_crops_are_compared_than_a_step_has(batch: int, compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(executors, "measure_executors", lambda *_: {"dense": [1.0], "tiles": [0.5]})
    monkeypatch.setattr(executors, "disagreement", lambda *given: asked.append(given[-1]) or 0.0)
    trainer: Any = SimpleNamespace(
        method=make_method("spark", SHAPES["2d"]), run=RunConfig(method="spark", executor="auto", batch_size=batch),
        device=torch.device("cpu"), local_rank=0, world_size=1, is_ddp=False, _autocast=nullcontext,
        _do_i_compile=lambda: False, precision=torch.float32,
    )  # fmt: skip
    settle_executor(trainer)
    assert asked == [compared]


def test_a_comparison_that_memory_does_not_hold_leaves_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways fit, but not beside the copy that they are compared on. The allocator itself refuses."""
    trainer, _ = chosen_when_too_large()
    trainer.run = RunConfig(method="spark", executor="auto", batch_size=2)
    original = trainer.method

    def too_large(method: Any) -> Any:
        assert method is original
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(executors, "measure_executors", lambda *_: {"dense": [1.0], "tiles": [0.5]})
    monkeypatch.setattr(executors, "copied", too_large)
    [line] = settle_executor(trainer)
    assert trainer.run.executor == "dense"
    assert "too small to compare tiles" in line


def test_tiles_that_compute_something_else_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A margin that is read from the wrong place, as a library's fault on an untried device would do it."""
    right = tile_conv.with_margin
    monkeypatch.setattr(tile_conv, "with_margin", lambda *given: right(*given).flip(-1))
    monkeypatch.setattr(executors, "measure_executors", lambda *_: {"dense": [1.0], "tiles": [0.5]})
    trainer: Any = SimpleNamespace(
        method=make_method("spark", SHAPES["2d"]), run=RunConfig(method="spark", executor="auto", batch_size=2),
        device=torch.device("cpu"), local_rank=0, world_size=1, is_ddp=False, _autocast=nullcontext,
        _do_i_compile=lambda: False, precision=torch.float32,
    )  # fmt: skip
    [line] = settle_executor(trainer)
    assert line.startswith("WARNING") and "tiles disagree" in line
    assert trainer.run.executor == "dense"
