"""Classification studies: nested stratified draws, checks of the file, real cells, and a report that says what is there."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nnssl.errors import NnsslError
from nnssl.evaluate.report import write_report
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.report.compare import compare
from nnssl.evaluate.strata import strata_of, stratified_order
from nnssl.evaluate.study.cells import Cell, grid, write_record
from nnssl.evaluate.study.draws import draw, stratified_patients
from nnssl.evaluate.study.spec import parse_study
from nnssl.files import write_json
from tests.conftest import run_command
from tests.evaluate.test_classify_command import npz
from tests.evaluate.test_study_cells import study


def classification(**changes: Any) -> Any:
    """A study with two initialisations."""
    task = {"npz": "x.npz", "method": "linear", **changes.pop("classify", {})}
    return study(**{"task": "classification", "classify": task, "validation": [], **changes})


# ---------------------------------------------------------------- draws


def test_draws_are_nested_stratified_and_by_patient() -> None:
    names = [f"c{i}" for i in range(60)]
    groups = {n: f"p{i // 2}" for i, n in enumerate(names)}
    strata = {n: 0 if i < 40 else 1 if i < 54 else 2 for i, n in enumerate(names)}  # 20, 7 and 3 patients
    orders = [stratified_patients(names, groups, strata, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders[1:]:
        drawn = {n: draw(order, n, "patient") for n in (3, 10, 30)}
        assert set(drawn[3]) < set(drawn[10]) < set(drawn[30])
        assert Counter(strata[c] for c in drawn[3]) == {0: 2, 1: 2, 2: 2}
        assert Counter(strata[c] for c in drawn[10]) == {0: 14, 1: 4, 2: 2}
        for names_drawn in drawn.values():
            assert all(n in names_drawn for n in names if groups[n] in {groups[c] for c in names_drawn})


def test_a_quantity_is_drawn_by_quartiles() -> None:
    values = np.arange(40.0)
    strata = strata_of(values, "regression")
    assert Counter(strata.tolist()) == {0: 10, 1: 10, 2: 10, 3: 10}
    first = stratified_order([str(i) for i in range(40)], strata, 0)[:8]
    assert Counter(int(strata[int(name)]) for name in first) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert len(set(stratified_order([str(i) for i in range(40)], strata, 0))) == 40


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"classify": {"labels": "y.csv", "target": "z"}}, "one of the two"),
        ({"classify": {"npz": None}}, "one of the two"),
        ({"classify": {"npz": None, "labels": "y.csv"}}, "belong together"),
        ({"task": "segmentation"}, "belong together"),
        ({"unit": "slice"}, "cases or patients"),
        ({"batch_size": 2}, "classify block"),
        ({"inits": {"scratch": {"schedule": "nnunet"}}}, "not schedule nnunet"),
        ({"inits": {"scratch": {"schedule": "scratch", "optimizer": "sgd"}}}, "not optimizer"),
        ({"inits": {"scratch": {"schedule": "scratch", "lr": 0.1}}}, "lr is for method finetune"),
        ({"classify": {"method": "forest"}}, "method"),
    ],
)
def test_what_a_file_cannot_say(changes: dict, text: str) -> None:
    with pytest.raises(NnsslError, match=text):
        classification(**changes)


def test_frozen_models_need_no_steps() -> None:
    content = classification().model_dump(exclude_none=True)
    del content["steps"], content["evaluate_every"], content["validation"]
    assert not parse_study(content, "here").stepwise
    with pytest.raises(NnsslError, match="steps"):
        parse_study({**content, "classify": {"npz": "x.npz", "method": "finetune"}}, "here")
    with pytest.raises(NnsslError, match="validation names no case"):
        study(validation=[])


# ---------------------------------------------------------------- the report


def folder_of(root: Path, gain: float, seeds: int = 5, quantity: bool = False) -> Path:
    """`a` answers better than the control in every draw, by `gain`."""
    test = [f"e{i}" for i in range(40)]
    config = classification(counts=[20], seeds=list(range(seeds)), test=test)
    facts = {"study": config.model_dump(), "command": "c", "device": "cpu", "versions": {}, "started": "now",
             "inits": {"a": {"kind": "file"}, "scratch": {"kind": "scratch"}}}  # fmt: skip
    write_json(facts, root / "study.json")
    for cell in grid(config):
        where = cell.folder(root)
        write_record(where, **vars(cell), state="done", train_seconds=1.0)
        rng = np.random.default_rng(cell.seed)  # the same noise for both
        truth = np.arange(40) % 2
        sure = rng.normal(size=40) + (0.3 + (gain if cell.init == "a" else 0)) * (2 * truth - 1)
        with (where / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "group", "target", "prediction", *([] if quantity else ["p_no", "p_yes"])])
            for i, name in enumerate(test):
                p = 1 / (1 + np.exp(-sure[i]))
                said = [sure[i]] if quantity else ["yes" if p > 0.5 else "no", 1 - p, p]
                writer.writerow([name, name, truth[i] if quantity else ["no", "yes"][truth[i]], *said])
    return root


def test_numbers_of_a_report(tmp_path: Path) -> None:
    read = read_results(folder_of(tmp_path, 2.0))
    found = {c.init: c for c in compare(read, "balanced_accuracy")}
    a, control = found["a"], found["scratch"]
    difference = a.difference["balanced_accuracy"]
    assert difference.mean == pytest.approx(a.score["balanced_accuracy"] - control.score["balanced_accuracy"])
    assert 0 < difference.low < difference.mean < difference.high
    assert (a.rank, control.rank, a.better) == (1, 2, 1)
    assert set(a.labels) == {"no", "yes"}
    assert np.mean(list(a.labels.values())) == pytest.approx(a.score["balanced_accuracy"])


@pytest.mark.parametrize("gain,text", [(2.0, "higher balanced accuracy by"), (0.0, "No initialisation was better")])
def test_what_a_report_says(tmp_path: Path, gain: float, text: str) -> None:
    page = write_report(folder_of(tmp_path, gain)).read_text()
    assert text in page
    assert "Recall per class" in page
    assert "HD95" not in page
    assert "speed-up" not in page  # nothing was trained step by step
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 10
    assert 0 < float(rows[0]["auc"]) <= 1
    assert "With 20 labelled images" in (tmp_path / "report.md").read_text()


def test_smaller_errors_are_better(tmp_path: Path) -> None:
    read = read_results(folder_of(tmp_path, 0.2, quantity=True))
    found = {c.init: c for c in compare(read, "mae")}
    better = found["a"].score["mae"] < found["scratch"].score["mae"]
    assert (found["a"].rank < found["scratch"].rank) == better
    assert write_report(tmp_path, "mae").is_file()
    with pytest.raises(NnsslError, match="there are r2, mae, correlation"):
        write_report(tmp_path, "dice")


def answers_of(root: Path, cell: Cell, known: str, truth: str, said: str) -> None:
    """A finished cell that knows some classes and is sure of its answers."""
    where = cell.folder(root)
    write_record(where, **vars(cell), state="done", train_seconds=1.0)
    with (where / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "group", "target", "prediction", *(f"p_{c}" for c in known)])
        for i, (target, answer) in enumerate(zip(truth, said)):
            writer.writerow([f"e{i}", f"e{i}", target, answer, *(float(answer == c) for c in known)])


def test_cells_that_know_other_classes_are_told_apart(tmp_path: Path) -> None:
    """A class that no test image shows is in some draws only: columns are those of all cells, in every cell."""
    truth = "aaccaacc"
    config = classification(counts=[4, 20], seeds=[0, 1], test=[f"e{i}" for i in range(8)])
    facts = {"study": config.model_dump(), "command": "c", "device": "cpu", "versions": {}, "started": "now",
             "inits": {"a": {"kind": "file"}, "scratch": {"kind": "scratch"}}}  # fmt: skip
    write_json(facts, tmp_path / "study.json")
    for cell in grid(config):
        wider = cell.count == 20 or cell.seed == 1
        answers_of(tmp_path, cell, "abc" if wider else "ac", truth, "abcbabcb" if wider else truth)
    read = read_results(tmp_path)
    assert read.labels == ("a", "b", "c")
    assert read.measures.chance == pytest.approx(1 / 3)
    found = {(c.init, c.count): c for c in compare(read, "balanced_accuracy")}
    assert found["a", 20].labels == pytest.approx({"a": 0.5, "b": np.nan, "c": 0.5}, nan_ok=True)
    assert found["a", 4].labels == pytest.approx({"a": 0.75, "b": np.nan, "c": 0.75}, nan_ok=True)  # 1 and 0.5
    assert found["a", 4].score["balanced_accuracy"] == pytest.approx(0.75)
    page = write_report(tmp_path)
    assert page.is_file()


# ---------------------------------------------------------------- the real thing


@pytest.fixture
def target(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planned target, for its splits."""
    folder = tmp_path / "preprocessed" / "Dataset901_Target"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def init(file: Path, *arguments: str) -> int:
    return run_command("study", "init", "-d", "901", "-c", "2d", "-o", str(file), "--overwrite", *arguments)


@pytest.mark.parametrize("asked", [None, 2])
def test_a_control_learns_for_all_of_its_steps(
    target: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    """Only pretrained encoders are frozen at first, also where the study says for how long."""
    from nnssl.evaluate.study import classification as module

    monkeypatch.setattr(module, "make_extractor", lambda *_, **__: None)
    config = classification(classify={"method": "finetune", "freeze_epochs": asked}, steps=70, validation=["v"])
    frozen = {}
    for name in ("scratch", "a"):
        settings, _ = module._begin(config, Cell(name, 2, 0), torch.device("cpu"))
        frozen[name] = settings.schedule(20)[1]
    assert frozen == {"scratch": 0, "a": 10 if asked is None else 4}


@pytest.mark.slow
def test_from_init_to_report(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file, folder = tmp_path / "s.yaml", tmp_path / "study"
    images = npz(tmp_path / "x.npz")
    options = ("--npz", str(images), "-m", "finetune", "--counts", "6", "12", "--seeds", "2", "--steps", "4")
    assert init(file, *options, "--test-cases", "12") == 0
    content = yaml.safe_load(file.read_text())
    assert (len(content["test"]), len(content["validation"])) == (12, 4)
    file.write_text(yaml.safe_dump({**content, "evaluate_every": 2, "keep_weights": True, "counts": [6]}))
    run = ("run", str(file), "-o", str(folder), "-device", "cpu")
    assert run_command("study", *run, "--dry-run") == 0
    assert "1 initialisations x 1 counts x 2 draws = 2 trainings of 4 steps" in capfd.readouterr().out
    assert not folder.exists()
    assert run_command("study", *run) == 0
    assert "2 trainings done, 0 failed" in capfd.readouterr().out
    cell = Cell("scratch", 6, 0).folder(folder)
    assert [r["step"] for r in csv.DictReader((cell / "curve.csv").open())] == ["0", "2", "4"]
    assert {r["case"] for r in csv.DictReader((cell / "predictions.csv").open())} == set(content["test"])
    assert json.loads((cell / "scores.json").read_text())["accuracy"] <= 1
    before = (cell / "cell.json").read_text()
    assert run_command("study", *run) == 0
    assert (cell / "cell.json").read_text() == before
    assert run_command("study", "report", str(folder)) == 0
    assert (folder / "report" / "curves_6.png").is_file()
    model = ("--predict", str(cell / "model.pth"), "-i", str(images))
    assert run_command("classify", *model, "-device", "cpu", "-o", str(tmp_path / "p")) == 0


def test_a_table_by_patient_with_its_fold_held_out(target: Path, tmp_path: Path) -> None:
    names = sorted(p.name.removesuffix(".nii.gz") for p in (target / "gt_segmentations").iterdir())
    table = tmp_path / "t.csv"
    table.write_text("case,y\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names)))
    write_json([{"train": names[:4], "val": names[4:]}], target / "splits_final.json")
    asked = ("--labels", str(table), "--target", "y:regression", "-m", "knn", "--counts", "2", "--seeds", "1")
    file = tmp_path / "s.yaml"
    assert init(file, *asked) == 0
    content = yaml.safe_load(file.read_text())
    assert (content["training"], content["test"], content["validation"]) == (names[:4], names[4:], [])
    assert "steps" not in content
    assert list(content["inits"]) == ["random"]


def test_a_changed_table_is_another_study(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Draws of a quantity may stay the same while its values change: cells of both could not be compared."""
    names = sorted(p.name.removesuffix(".nii.gz") for p in (target / "gt_segmentations").iterdir())
    write_json([{"train": names[:4], "val": names[4:]}], target / "splits_final.json")
    file, table, folder = tmp_path / "s.yaml", tmp_path / "t.csv", tmp_path / "s"
    run = ("run", str(file), "-o", str(folder), "-device", "cpu")
    table.write_text("case,y\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names)))
    assert (
        init(file, "--labels", str(table), "--target", "y:regression", "-m", "knn", "--counts", "2", "--seeds", "1")
        == 0
    )
    assert run_command("study", *run) == 0
    before = (folder / "study.json").read_text()
    assert run_command("study", *run) == 0
    moved = table.rename(tmp_path / "u.csv")
    file.write_text(file.read_text().replace(str(table), str(moved)))
    assert run_command("study", *run) == 0, "another machine has it elsewhere"
    moved.write_text("case,y\n" + "".join(f"{n},{i + 1}\n" for i, n in enumerate(names)))
    capfd.readouterr()
    assert run_command("study", *run) == 2
    assert "other labels" in capfd.readouterr().err
    assert json.loads(before)["labels_sha256"] == json.loads((folder / "study.json").read_text())["labels_sha256"]


def test_what_init_and_run_refuse(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file, images = tmp_path / "s.yaml", str(npz(tmp_path / "x.npz"))

    def says(*arguments: str) -> str:
        assert init(file, *arguments) == 2
        return capfd.readouterr().err

    assert "needs --labels" in says("--target", "y")
    assert "is for a classification" in says("-m", "linear")
    assert "not both" in says("--labels", "x.csv", "--npz", images)
    assert "which column" in says("--labels", "x.csv")
    assert "an npz brings its labels" in says("--npz", images, "--group", "p")
    assert "--stock is for segmentation" in says("--npz", images, "--stock")
    assert "cases or patients" in says("--npz", images, "--unit", "slice")
    assert not file.exists()
    assert init(file, "--npz", images, "-m", "linear", "--counts", "1", "--seeds", "1") == 0
    run = ("run", str(file), "-o", str(tmp_path / "s"), "-device", "cpu")
    assert run_command("study", *run) == 2
    assert "count 1, seed 0: none of 1 training images shows class" in capfd.readouterr().err
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "counts": [4], "test": ["test_0", "test_99"]}))
    assert run_command("study", *run) == 2
    assert "test_99 of the study has no value" in capfd.readouterr().err
    arrays = dict(np.load(images))
    arrays["test_images"][0] = arrays["train_images"][0]
    np.savez(images, **arrays)
    file.write_text(yaml.safe_dump({**content, "counts": [4]}))
    from nnssl.evaluate.study.classification import open_source

    open_source.cache_clear()  # another process would read the changed file
    assert run_command("study", *run) == 2
    assert "test_0 of test has the same voxels as train_0 of training" in capfd.readouterr().err
    assert not (tmp_path / "s").exists()
