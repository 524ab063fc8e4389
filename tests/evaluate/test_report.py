"""The report on studies whose numbers are known."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.convergence import SpeedUp
from nnssl.evaluate.report import pictures, write_report
from nnssl.evaluate.report.collect import Study, read_results
from nnssl.evaluate.report.compare import Comparison, compare
from nnssl.evaluate.report.conclusion import conclude, speed_cell, speed_words
from nnssl.evaluate.study.cells import Cell, grid, write_record
from nnssl.evaluate.study.spec import recorded_study
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
    assert a.speed[0.95].low == a.speed[0.95].high == pytest.approx(80 / 20)
    assert control.sd["dice"] == pytest.approx(0.0158, abs=1e-3)


@pytest.mark.parametrize(
    "gain,seeds,texts",
    [
        (0.1, 5, ["a against scratch: higher Dice by 0.100", "4.0 times sooner"]),
        (-0.1, 5, ["lower Dice by 0.100", "No initialisation was better than the control"]),
        (0.1, 2, ["This rests on 2 draws of training cases: a first look", "in 2 draws, too few for a verdict"]),
        (0.1, 4, ["No initialisation was better than the control", "rests on fewer than 5 draws"]),
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


@pytest.mark.parametrize(
    "speed,said,cell",
    [
        (SpeedUp(4, 4), "4.0 times sooner", "4x"),
        (SpeedUp(0.5, 0.5), "2.0 times later", "0.5x"),
        (SpeedUp(4, math.inf, 0), "at least 4.0 times sooner (both got there in 0 of 1 draws)", ">= 4x"),
        (SpeedUp(0.5, math.inf), "at most 2.0 times later", ">= 0.5x"),
        (SpeedUp(1.02, 1.02), "as soon", "1x"),
        (SpeedUp(0.98, 0.98), "as soon", "0.98x"),
        (SpeedUp(0, 1), "at most 1.0 times sooner", "<= 1x"),
        (SpeedUp(0, 0.5), "at least 2.0 times later, or never", "<= 0.5x"),
        (SpeedUp(1, 4, 3, 5), "1.0 to 4.0 times sooner (both got there in 3 of 5 draws)", "1 to 4x"),
        (SpeedUp(0.25, 0.5), "2.0 to 4.0 times later", "0.25 to 0.5x"),
        (SpeedUp(0.5, 2), "between 2.0 times later and 2.0 times sooner", "0.5 to 2x"),
        (SpeedUp(0, math.inf, 1, 5), "was reached in too few draws to compare (both got there in 1 of 5 draws)", "-"),
        (
            SpeedUp(0, math.inf, 0, 5, 2),
            "was reached in too few draws to compare (both got there in 0 of 5 draws)",
            "-",
        ),
        (SpeedUp(0, math.inf, 0, 5), "was reached by neither", "-"),
    ],
)
def test_a_speed_up_in_words(speed: SpeedUp, said: str, cell: str) -> None:
    assert (speed_words(speed), speed_cell(speed)) == (said, cell)


def test_a_label_that_is_not_there_and_is_predicted_counts_in_the_difference(tmp_path: Path) -> None:
    """One arm says rightly that there is no y, the other one finds some: its mean over labels falls."""
    root = folder_of(tmp_path, 0.0)
    for cell in grid(recorded_study(root / "study.json")):
        table = cell.folder(root) / "test.csv"
        rows = [line.split(",") for line in table.read_text().splitlines()]
        for row in rows[1:]:
            row[2:] = ["1", "1", "0", "1"] if row[1] == "x" else ["0", "0", "", "0"] if cell.init == "a" else [""] * 4
        table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    found = {c.init: c for c in compare(read_results(root), "dice")}["a"]
    assert found.difference["dice"].mean == pytest.approx(-0.5)
    assert found.better == 0


def test_a_case_in_which_one_arm_rightly_finds_nothing_is_not_lost(tmp_path: Path) -> None:
    """Healthy cases: the control sees a lesion where there is none, and has a Dice of 0; the other one has no Dice there."""
    read = read_results(folder_of(tmp_path, 0.0))
    for cell, result in read.results.items():
        result.scores["dice"][:] = 0.8
        result.scores["dice"][4:] = np.nan if cell.init == "a" else 0.0
        result.means["dice"] = float(np.nanmean(result.scores["dice"]))
    found = {c.init: c for c in compare(read, "dice")}
    gain = found["a"].difference["dice"]
    assert gain.mean == pytest.approx(found["a"].score["dice"] - found["scratch"].score["dice"]) == pytest.approx(0.4)
    assert 0 < gain.low < 0.4 < gain.high <= 0.8


def test_an_arm_that_finds_a_difficult_label_is_not_the_worse_for_its_distance(tmp_path: Path) -> None:
    read = read_results(folder_of(tmp_path, 0.0))
    for cell, result in read.results.items():
        result.scores["hd95"][:, 0] = 2.0
        result.scores["hd95"][:, 1] = 20.0 if cell.init == "a" else np.nan
    difference = {c.init: c for c in compare(read, "dice")}["a"].difference["hd95"]
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


def test_a_verdict_needs_draws_of_both(tmp_path: Path) -> None:
    """As when one job of an array has all cells of the control, and has not come far."""
    read = read_results(folder_of(tmp_path, 0.1))
    for cell in [c for c in read.results if c.init == "scratch" and c.seed > 1]:
        del read.results[cell]
    said = " ".join(conclude(read, compare(read, "dice"), "dice"))
    assert "+0.100 Dice in 2 draws, too few for a verdict" in said
    assert "This rests on 2 draws" in said and "No initialisation was better" in said


def test_a_difference_that_is_not_defined_is_said(tmp_path: Path) -> None:
    read = read_results(folder_of(tmp_path, 0.1))
    for result in read.results.values():
        result.scores["hd95"][:] = np.nan
    said = " ".join(conclude(read, compare(read, "hd95"), "hd95"))
    assert "is not defined in any test case" in said and "nan" not in said


@pytest.mark.parametrize(("metric", "worst", "best"), [("dice", 1, 8), ("hd95", 8, 1)])
def test_the_worst_case_is_the_worst_whatever_the_metric(
    metric: str, worst: int, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both rise from case to case: more Dice is better, more distance is worse."""
    read = read_results(folder_of(tmp_path, 0.0))
    for result in read.results.values():
        result.scores[metric][:] = np.arange(len(CASES))[:, None]
    monkeypatch.setattr(pictures, "_raw_images", lambda _: dict.fromkeys(CASES, Path("image")))
    monkeypatch.setattr(pictures, "draw_case", lambda *_: b"picture")
    captions = [picture.title for picture in pictures.case_pictures(read, metric)]
    assert captions[0].startswith(f"test case {worst} of 8, the worst on average")
    assert any(c.startswith(f"test case {best} of 8, the best on average") for c in captions)


def test_a_healthy_case_rightly_left_empty_ranks_first(tmp_path: Path) -> None:
    """It has no overlap: whoever found something there is behind."""
    read = read_results(folder_of(tmp_path, 0.0))
    for result in read.results.values():
        result.scores["dice"][:] = np.nan if result.cell.init == "a" else 0.0
    found = {c.init: c.rank for c in compare(read, "dice")}
    assert found == {"a": 1, "scratch": 2}


def test_the_table_is_of_the_metric_that_was_asked_for(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.1)
    write_report(root, "iou")
    head, _, control, first = (root / "report.md").read_text().splitlines()[2:6]
    assert head.split(" | ")[3:7] == ["IoU", "difference", "Dice", "HD95 (mm)"]
    assert control.split(" | ")[3].startswith("0.440 ±")
    assert "+0.100" in first.split(" | ")[4]
    heads = [text.strip() for text in re.findall(r"<th[^>]*>([^<]*)</th>", (root / "report.html").read_text())]
    assert heads[3:6] == ["IoU", "difference", "Dice"]


def test_what_trainings_were_made_with_is_said_of_each(tmp_path: Path) -> None:
    """A study that moved to another machine: its own record has the versions of the last call only."""
    root = folder_of(tmp_path, 0.1)
    assert "were made with:" not in write_report(root).read_text(), "nothing is on record"
    old, new = {"device": "cpu", "torch": "2.6.0"}, {"device": "cuda", "torch": "2.15.0"}
    for seed, parts in enumerate(([old], [old, new], [new])):
        write_record(Cell("a", 2, seed).folder(root), made_with=parts)
    said = write_report(root).read_text()
    assert (
        "3 of 10 trainings have on record what they were made with: device cpu and cuda, torch 2.15.0 and 2.6.0."
        in said
    )


def test_the_cost_of_a_pretraining_stands_beside_it(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.1)
    facts = json.loads((root / "study.json").read_text())
    facts["batch_size"], facts["inits"]["a"]["crops"] = 2, 800
    write_json(facts, root / "study.json")
    assert '<td class="name">800 crops, as in 5.0 trainings</td>' in write_report(root).read_text()
    facts["inits"]["a"] |= {"sha256_per_seed": {"0": 64 * "0", "1": 64 * "1"}}
    write_json(facts, root / "study.json")
    assert "800 crops, as in 5.0 trainings for each draw" in write_report(root).read_text()


def test_patients_of_the_test_cases_are_drawn_whole(tmp_path: Path) -> None:
    """All test cases are of one patient: then cases say nothing of how patients differ."""
    root = folder_of(tmp_path, 0.1)
    read = read_results(root)
    for i, cell in enumerate(c for c in read.results if c.init == "a"):
        scores = read.results[cell].scores
        scores["dice"] += np.linspace(-0.2, 0.2, len(CASES))[:, None] + 0.01 * i
    several = compare(read, "dice")
    apart, alone = ({c.init: c for c in found}["a"].difference["dice"] for found in (several, _of_one_patient(read)))
    assert alone.mean == pytest.approx(apart.mean)
    assert math.isnan(alone.low)
    assert not math.isnan(apart.low)
    said = " ".join(conclude(read, _of_one_patient(read), "dice"))
    assert "of one patient on one side or both: too few for a verdict" in said
    assert "nan" not in said


def _of_one_patient(read: Study) -> list[Comparison]:
    read.facts["test_patients"] = [0] * len(CASES)
    return compare(read, "dice")


@pytest.mark.parametrize(("draws", "said"), [(1, "in one draw"), (2, "in 2 draws, too few for a verdict")])
def test_a_verdict_wants_draws_that_have_a_value(draws: int, said: str, tmp_path: Path) -> None:
    """Five draws are in; a distance there is in some of them only."""
    read = read_results(folder_of(tmp_path, 0.0))
    for result in read.results.values():
        result.scores["hd95"][:] = 5 + (result.cell.init == "a") if result.cell.seed < draws else np.nan
    words = " ".join(conclude(read, compare(read, "hd95"), "hd95"))
    assert said in words
    assert "nan" not in words
    assert "95 % interval" not in words
    assert "No initialisation was better" in words


def test_the_tolerance_of_surfaces_is_the_study_s(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 0.1)
    record = json.loads((root / "study.json").read_text())
    record["study"]["tolerance_mm"] = 5.0
    (root / "study.json").write_text(json.dumps(record))
    page = write_report(root).read_text()
    assert "surface Dice (5 mm)" in page
    assert "2 mm" not in page
    assert "| surface Dice |" in (root / "report.md").read_text()


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
