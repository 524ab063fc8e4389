"""Cells: one process at a time has one, a dead one's is taken over, and the order is the most informative first."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from nnssl.data import claims
from nnssl.errors import NnsslError
from nnssl.evaluate.study import worker
from nnssl.evaluate.study.cells import Cell, claim, grid, record_of, state_of, write_record
from nnssl.evaluate.study.jobs import Share, give_new_attempts
from nnssl.evaluate.study.spec import FORMAT, parse_study
from nnssl.files import write_json


def study(**changes: Any) -> Any:
    content = {
        "name": "s", "dataset": "Dataset001_X", "configuration": "2d", "control": "scratch",
        "inits": {"a": {"init": "a.pth"}, "scratch": {"schedule": "scratch"}},
        "counts": [2, 5], "seeds": [0, 1], "steps": 10, "evaluate_every": 5,
        "training": ["t1", "t2"], "validation": ["v"], "test": ["e"],
    }  # fmt: skip
    return parse_study({**content, **changes}, "here")


def test_one_whole_draw_before_the_next_and_the_control_first() -> None:
    order = grid(study())
    assert [c.seed for c in order] == [0] * 4 + [1] * 4
    assert [c.init for c in order[:2]] == ["scratch", "a"]
    assert len(set(order)) == 8


def test_a_claimed_cell_is_not_given_twice(tmp_path: Path) -> None:
    with claim(tmp_path) as mine, claim(tmp_path) as theirs:
        assert mine
        assert not theirs
    with claim(tmp_path) as again:
        assert again


def test_a_dead_process_does_not_keep_its_cell(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    (tmp_path / "lock").write_text(f"{socket.gethostname()} {child.stdout.strip()}\n")
    write_record(tmp_path, state="running")
    assert state_of(tmp_path) == "waiting"
    with claim(tmp_path) as mine:
        assert mine
        assert state_of(tmp_path) == "running"


def test_a_lock_of_another_machine_holds_until_it_is_stale(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 1\n")
    with claim(tmp_path) as mine:
        assert not mine
    old = time.time() - claims.DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))
    with claim(tmp_path) as mine:
        assert mine


def test_a_working_owner_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    with claim(tmp_path):
        before = (tmp_path / "lock").stat().st_mtime_ns
        time.sleep(0.4)
        assert (tmp_path / "lock").stat().st_mtime_ns > before


def test_with_every_call_what_is_not_done_gets_new_attempts(tmp_path: Path) -> None:
    """Also what was killed twice, with no time to say that it failed; not what runs, nor what is done."""
    cells = grid(study())[:4]
    for cell, state in zip(cells, ("failed", "running", "running", "done")):
        write_record(cell.folder(tmp_path), state=state, attempts=2)
    with claim(cells[2].folder(tmp_path)):
        give_new_attempts(cells, tmp_path)
    found = [record_of(cell.folder(tmp_path)) for cell in cells]
    assert [(r["state"], r["attempts"]) for r in found] == [("waiting", 0), ("waiting", 0), ("running", 2), ("done", 2)]
    assert [r.get("deaths", 0) for r in found] == [0, 1, 0, 0]


def test_what_killed_its_process_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may do so with every call: the rest of the study is done by then."""
    cells, ran = grid(study()), []
    write_json({"format": FORMAT, "study": study().model_dump()}, tmp_path / "study.json")
    write_json({str(s): {"2": [], "5": []} for s in (0, 1)}, tmp_path / "draws.json")

    def run(_: Any, cell: Cell, *__: Any) -> None:
        ran.append(cell)
        if cell == cells[1]:
            raise GeneratorExit("killed")  # nothing is written down

    monkeypatch.setattr(worker, "run_cell", run)
    for _ in range(2):
        with pytest.raises(GeneratorExit):
            worker.work(tmp_path, torch.device("cpu"), Share(), 0)
    worker.work(tmp_path, torch.device("cpu"), Share(), 0)
    assert ran == [cells[0], cells[1], *cells[2:], cells[1]]
    record = record_of(cells[1].folder(tmp_path))
    assert (record["state"], record["deaths"]) == ("failed", 2)
    give_new_attempts(cells, tmp_path)
    assert record_of(cells[1].folder(tmp_path))["deaths"] == 2


@pytest.mark.parametrize("entry", [{"deaths": "many"}, {"made_with": 5}, {"state": None}, {"attempts": "2"}])
def test_a_damaged_record_is_one_line(entry: dict[str, Any], tmp_path: Path) -> None:
    write_json({"state": "waiting", **entry}, tmp_path / "cell.json")
    with pytest.raises(NnsslError, match="is damaged"):
        record_of(tmp_path)


def test_a_cell_that_moved_names_both_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "run_cell", lambda *_: None)
    cell = grid(study())[0]
    for version in ("2.6.0", "2.15.0", "2.15.0"):
        monkeypatch.setattr(worker, "package_versions", lambda version=version: {"torch": version})
        write_record(tmp_path, attempts=0)
        (tmp_path / "curve.csv").touch()
        with claim(tmp_path) as mine:
            worker.run_one(study(), cell, tmp_path, {"0": {"2": []}}, torch.device("cpu"), mine)
    made = record_of(tmp_path)["made_with"]
    assert made == [{"device": "cpu", "torch": "2.6.0"}, {"device": "cpu", "torch": "2.15.0"}]
    (tmp_path / "curve.csv").unlink()
    write_record(tmp_path, attempts=0)
    with claim(tmp_path) as mine:
        worker.run_one(study(), cell, tmp_path, {"0": {"2": []}}, torch.device("cpu"), mine)
    assert record_of(tmp_path)["made_with"] == made[1:], "began anew"


def test_names_of_cells_differ() -> None:
    assert Cell("a", 3, 0).name == "a_n3_seed0"
    assert Cell("a", 3, 0).folder(Path("s")) == Path("s/cells/a/n3/seed0")


@pytest.mark.parametrize("broken", [False, True])
def test_a_cells_network_is_freed_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """nnU-Net's trainers refer to themselves: left to Python's own pace, a GPU holds the networks of several cells."""
    trainers = []

    class Trainer:
        def __init__(self) -> None:
            self.me = self
            trainers.append(weakref.ref(self))
            if broken:
                raise ValueError("cannot be trained")

    monkeypatch.setattr(worker, "run_cell", lambda *_: Trainer() and None)
    cell = grid(study())[0]
    folder = cell.folder(tmp_path)
    gc.disable()
    try:
        with claim(folder, lambda: None) as mine:
            worker.run_one(study(), cell, folder, {str(cell.seed): {str(cell.count): []}}, torch.device("cpu"), mine)
        assert [t() for t in trainers] == [None]
    finally:
        gc.enable()
    assert state_of(folder) == ("waiting" if broken else "done")
