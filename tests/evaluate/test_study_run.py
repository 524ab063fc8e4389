"""A whole study from the command line, stopped, damaged, gone on with, and reported."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import run_command

QUICK = ("-device", "cpu", "--epochs", "1", "--iterations", "2", "--set", "val_iterations=1", "--batch-size", "2")


@pytest.fixture
def target(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planned target, for its splits."""
    folder = tmp_path / "preprocessed" / "Dataset901_Target"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def init(tmp_path: Path, *more: str) -> Path:
    file = tmp_path / "few.yaml"
    arguments = ("-d", "901", "-c", "3d_fullres", "--counts", "1", "2", "--seeds", "2", "--steps", "4", "-o", str(file))
    assert run_command("study", "init", *arguments, *more) == 0
    return file


def shorten(file: Path, **changes: object) -> dict:
    content = yaml.safe_load(file.read_text())
    content |= {"evaluate_every": 2, "batch_size": 2, **changes}
    file.write_text(yaml.safe_dump(content))
    return content


def test_a_study_from_init_to_report(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    first = init(tmp_path)  # makes the splits, which the pretraining must respect
    assert run_command("pretrain", "901", "3d_fullres", "-m", "masked_region", "-f", "0", *QUICK) == 0
    run = tmp_path / "results" / "Dataset901_Target" / "nnsslTrainer_MaskedRegion__nnsslPlans__3d_fullres" / "fold_0"
    file = init(tmp_path, "--init", f"mask={run / 'encoder.pth'}", "--overwrite", "--stock")
    assert first == file
    content = shorten(file, counts=[1], seeds=[0, 1])
    for seed in (0, 1):  # a pretraining of its own for each draw
        shutil.copy(run / "encoder.pth", run / f"encoder_{seed}.pth")
    of_seed = {
        **content["inits"]["mask"],
        "init": content["inits"]["mask"]["init"].replace("encoder.pth", "encoder_{seed}.pth"),
    }
    shorten(file, inits={**content["inits"], "mask": of_seed})
    assert list(content["inits"]) == ["scratch", "nnunet", "mask"]
    assert content["inits"]["mask"]["init"].startswith("$nnUNet_results/Dataset901"), "the same on every machine"
    folder = tmp_path / "study"
    assert run_command("study", "run", str(file), "-o", str(folder), "--dry-run") == 0
    assert "3 initialisations x 1 counts x 2 draws = 6 trainings of 4 steps" in capfd.readouterr().out
    assert not folder.exists()

    assert run_command("study", "run", str(file), "-o", str(folder), "--jobs", "2", "-device", "cpu") == 0, _logs(
        folder
    )
    assert "6 trainings done, 0 failed" in capfd.readouterr().out
    cell = folder / "cells" / "mask" / "n1" / "seed0"
    rows = list(csv.DictReader((cell / "curve.csv").open()))
    assert [int(r["step"]) for r in rows] == [0, 2, 4]
    tested = list(csv.DictReader((cell / "test.csv").open()))
    assert {r["case"] for r in tested} == set(content["test"])
    assert json.loads((cell / "load_report.json").read_text())["encoder_coverage"] == 1
    facts = json.loads((folder / "study.json").read_text())["inits"]["mask"]
    assert set(facts["sha256_per_seed"]) == {"0", "1"}
    log = next((folder / "nnUNet_results").glob("*/*_mask_n1_seed1_*/fold_0/training_log*.txt")).read_text()
    assert "encoder_1.pth" in log
    draws = json.loads((folder / "draws.json").read_text())
    assert set(draws["0"]["1"]) <= set(content["training"])

    # a second call has nothing to do, and a study that grew does what is new
    before = (cell / "cell.json").read_text()
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 0
    assert (cell / "cell.json").read_text() == before
    shorten(file, steps=8)
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 2
    assert "another 'steps'" in capfd.readouterr().err
    shorten(file, steps=4)
    left_out = {k: v for k, v in content["inits"].items() if k != "mask"}
    shorten(file, inits=left_out, seeds=[0])
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 0
    with (run / "encoder_1.pth").open("ab") as other:
        other.write(b"changed")  # behind a zip's end: still readable, no longer the same bytes
    shorten(file, inits={**left_out, "mask": of_seed}, seeds=[0, 1])
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 2
    assert "other weights of initialisation 'mask'" in capfd.readouterr().err
    shutil.copy(run / "encoder.pth", run / "encoder_1.pth")
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 0
    assert (cell / "cell.json").read_text() == before, "what comes back finds its cells"

    assert run_command("study", "report", str(folder)) == 0
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "a first look" in page
    assert str(tmp_path) not in page.replace(str(file), "").replace(str(folder), "")
    table = (folder / "report.md").read_text()
    assert table.count("| 1 | ") == 3
    results = list(csv.DictReader((folder / "results.csv").open()))
    assert len(results) == 6 * len(content["test"]) * 2
    assert json.loads((folder / "summary.json").read_text())["finished"] == 6
    assert {p.name for p in (folder / "report").iterdir()} >= {"labels.png", "labels.svg", "curves_1.png"}


@pytest.mark.slow
def test_the_same_cell_twice_is_the_same(target: Path, tmp_path: Path) -> None:
    """Seeds of weights, order and augmentation: on a CPU a cell repeats bit for bit."""
    file = init(tmp_path)
    shorten(file, counts=[2], seeds=[3])
    curves = []
    for name in ("one", "two"):
        assert run_command("study", "run", str(file), "-o", str(tmp_path / name), "-device", "cpu") == 0
        rows = list(csv.DictReader((tmp_path / name / "cells" / "scratch" / "n2" / "seed3" / "curve.csv").open()))
        curves.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_stopped_and_gone_on_with(target: Path, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it: no worker stays behind, and the next call finishes what is left."""
    file = init(tmp_path)
    shorten(file, counts=[1], seeds=[0], steps=120)
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "nnssl.cli.study", "run", str(file), "-o", str(folder), "-device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    curve = folder / "cells" / "scratch" / "n1" / "seed0" / "curve.csv"
    _wait(lambda: curve.is_file() and len(curve.read_text().splitlines()) > 3)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    workers = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in workers
    assert not (curve.parent / "lock").exists()
    assert json.loads((curve.parent / "cell.json").read_text())["state"] == "waiting"
    for place in (folder, tmp_path / "uninterrupted"):
        assert run_command("study", "run", str(file), "-o", str(place), "-device", "cpu") == 0
    stopped, whole = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(path.open())]
        for path in (curve, tmp_path / "uninterrupted" / curve.relative_to(folder))
    )
    assert stopped == whole


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_tried_again(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = init(tmp_path)
    content = shorten(file, counts=[1], seeds=[0])
    reference = target / "gt_segmentations" / f"{content['test'][0]}.nii.gz"
    kept = reference.read_bytes()
    reference.write_bytes(b"broken")
    folder = tmp_path / "study"
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 1
    assert "0 trainings done, 1 failed" in capfd.readouterr().out
    record = json.loads((folder / "cells" / "scratch" / "n1" / "seed0" / "cell.json").read_text())
    assert record["attempts"] == 2
    assert record["reason"]
    assert run_command("study", "report", str(folder)) == 2
    assert "no training of" in capfd.readouterr().err
    reference.write_bytes(kept)
    curve = folder / "cells" / "scratch" / "n1" / "seed0" / "curve.csv"
    trained = curve.read_text()
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 0
    assert curve.read_text() == trained, "seconds too: only the test cases were predicted again"


def test_bad_input(target: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def says(*arguments: str) -> str:
        assert run_command("study", *arguments) == 2
        return capfd.readouterr().err

    assert "does not exist: `nnssl_study init" in says("run", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "s"))
    base = ("init", "-d", "901", "-c", "3d_fullres", "-o", str(tmp_path / "y.yaml"))
    assert "write it as NAME=FILE" in says(*base, "--init", "file.pth")
    assert "does not exist" in says(*base, "--init", "a=none.pth")
    assert "There are:" in says("init", "-d", "901", "-c", "3d", "-o", str(tmp_path / "y.yaml"))
    assert not (tmp_path / "y.yaml").exists()
    file = init(tmp_path)
    assert "exists: choose another name" in says(*base[:-1], str(file))
    shorten(file, counts=[50])
    assert "50 cases are asked for" in says("run", str(file), "-o", str(tmp_path / "s"), "-device", "cpu")
    assert "write it as i/n" in says("run", str(file), "-o", str(tmp_path / "s"), "--job", "3/3")
    assert "holds no study" in says("report", str(tmp_path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    shorten(file, counts=[1])
    assert "holds no study" in says("run", str(file), "-o", str(tmp_path / "full"), "-device", "cpu")


def _logs(folder: Path) -> str:
    return "\n".join(p.read_text()[-2000:] for p in (folder / "logs").glob("*.log"))


def _wait(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
