"""The report on studies whose numbers are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.convergence import SpeedUp
from nnssl.evaluate.report import write_report
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.report.compare import compare
from nnssl.evaluate.report.conclusion import conclude, speed_words
from nnssl.evaluate.study.cells import Cell, grid, write_record
from nnssl.files import write_json
from tests.evaluate.test_study_cells import study

CASES = [f"e{i}" for i in range(8)]


def folder_of(tmp_path: Path, gain: float, seeds: int = 5, early: bool = True, **changes: Any) -> Path:
    """A study in which `a` is better by `gain` in every case, and reaches the control's end at a quarter of the steps."""
    content = {"counts": [2], "seeds": list(range(seeds)), "steps": 80, "evaluate_every": 10, "test": CASES}
    config = study(**{**content, **changes})
    facts = {"study": config.model_dump(), "command": "nnssl_study run s.yaml", "device": "cpu", "versions": {"torch": "2"},
             "started": "now", "leakage_check": {"a": "none of 9 cases was seen in pretraining"},
             "inits": {"a": {"kind": "file", "file_name": "e.pth", "sha256": 64 * "0", "settings": {"schedule": "warmup"},
                             "provenance": {"method": "spark", "steps": 100}},
                       "scratch": {"kind": "scratch", "settings": {"schedule": "scratch"}}}}  # fmt: skip
    write_json(facts, tmp_path / "study.json")
    for cell in grid(config):
        finish(tmp_path, cell, gain if cell.init == "a" else 0.0, early and cell.init == "a")
    return tmp_path


def finish(root: Path, cell: Cell, gain: float, early: bool) -> None:
    where = cell.folder(root)
    write_record(where, **vars(cell), state="done", train_seconds=10.0)
    with (where / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "train_loss", "dice", "x", "y"])
        for step in range(0, 90, 10):
            reached = 20 if early else 80
            value = 0.5 * min(1, step / reached)
            writer.writerow([step, step, 1, value, value, value])
    with (where / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "label", "dice", "iou", "hd95", "nsd"])
        for i, case in enumerate(CASES):
            base = 0.5 + 0.02 * i + 0.01 * cell.seed + gain
            writer.writerow([case, "x", base, base - 0.1, 5, 0.8])
            writer.writerow([case, "y", base - 0.1, base - 0.2, "", 0.7])


def test_numbers(tmp_path: Path) -> None:
    found = {c.init: c for c in compare(read_results(folder_of(tmp_path, 0.1)), "dice")}
    a, control = found["a"], found["scratch"]
    assert a.score["dice"] - control.score["dice"] == pytest.approx(0.1)
    assert a.difference["dice"].mean == pytest.approx(0.1)
    assert a.difference["dice"].low == pytest.approx(0.1)
    assert (a.rank, control.rank) == (1, 2)
    assert a.better == 1
    assert a.labels["x"] - a.labels["y"] == pytest.approx(0.1)
    assert a.undefined == 0.5
    # 95 % of .5: the control is there at its last evaluation, the other one at 20
    assert a.speed[0.95].ratio == pytest.approx(80 / 20)
    assert control.sd["dice"] == pytest.approx(0.0158, abs=1e-3)


@pytest.mark.parametrize(
    "gain,seeds,texts",
    [
        (0.1, 5, ["a against scratch: higher Dice by 0.100", "4.0 times sooner"]),
        (-0.1, 5, ["lower Dice by 0.100", "No initialisation was better than the control"]),
        (0.1, 2, ["This rests on 2 draws of training cases: a first look"]),
        (0.1, 1, ["+0.100 Dice in one draw", "a first look"]),
    ],
)
def test_sentences(tmp_path: Path, gain: float, seeds: int, texts: list[str]) -> None:
    read = read_results(folder_of(tmp_path, gain, seeds))
    said = " ".join(conclude(read, compare(read, "dice"), "dice"))
    for text in texts:
        assert text in said


def test_no_difference_is_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.0, early=False)
    read = read_results(root)
    said = " ".join(conclude(read, compare(read, "dice"), "dice"))
    assert "no clear difference" in said
    assert "No initialisation was better" in said


def test_bounds_in_words() -> None:
    assert speed_words(SpeedUp(4, "at least")) == "at least 4.0 times sooner"
    assert speed_words(SpeedUp(1.02, "")) == speed_words(SpeedUp(0.98, "")) == "as soon"
    assert speed_words(SpeedUp(1, "at most")) == "at most 1.0 times sooner"
    assert speed_words(SpeedUp(0.5, "at most")) == "at least 2.0 times later, or never"
    assert speed_words(SpeedUp(float("nan"))) == "was reached by neither"


def test_an_unfinished_study(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.1)
    failed, waiting = Cell("a", 2, 4), Cell("scratch", 2, 3)
    write_record(failed.folder(root), state="failed", reason="RuntimeError: out of memory")
    write_record(waiting.folder(root), state="waiting")
    page = write_report(root).read_text()
    assert "8 of 10 trainings are in; 1 failed" in page
    assert "out of memory" in page
    assert len(json.loads((root / "summary.json").read_text())["failed"]) == 1


def test_names_cannot_write_into_the_page(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.1)
    facts = json.loads((root / "study.json").read_text())
    facts["command"] = "<script>alert(1)</script>"
    write_json(facts, root / "study.json")
    page = write_report(root).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="holds no study"):
        write_report(tmp_path)
    root = folder_of(tmp_path / "s", 0.1)
    with pytest.raises(NnsslError, match="there are dice, iou, hd95, nsd"):
        write_report(root, "jaccard")
    for cell in grid(read_results(root).config):
        write_record(cell.folder(root), state="waiting")
    with pytest.raises(NnsslError, match="no training of"):
        write_report(root)
