"""Three calls work on one study at a time and one is killed: every training is done, once, as if it had been alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import run_command
from tests.evaluate.test_study_run import init, shorten, target

__all__ = ["target"]


def call(file: Path, folder: Path, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nnssl.cli.study", "run", str(file), "-o", str(folder), "-device", "cpu"]
    with log.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def records(folder: Path) -> dict[str, dict]:
    return {str(p.parent.relative_to(folder)): json.loads(p.read_text()) for p in folder.glob("cells/*/*/*/cell.json")}


def scores(folder: Path) -> dict[str, list[dict]]:
    found = {}
    for path in folder.glob("cells/*/*/*/test.csv"):
        with path.open(newline="") as file:
            found[str(path.parent.relative_to(folder))] = list(csv.DictReader(file))
    return found


@pytest.mark.slow
def test_three_calls_and_a_kill(target: Path, tmp_path: Path) -> None:
    file = init(tmp_path)
    shorten(file, counts=[1, 2], seeds=[0, 1])
    alone, folder = tmp_path / "alone", tmp_path / "together"
    assert run_command("study", "run", str(file), "-o", str(alone), "-device", "cpu") == 0
    logs = [tmp_path / f"log_{i}" for i in range(3)]
    calls = [call(file, folder, log) for log in logs]
    try:
        deadline = time.monotonic() + 500
        while not any(r["state"] == "running" for r in records(folder).values()):
            assert time.monotonic() < deadline and all(c.poll() is None for c in calls), [p.read_text() for p in logs]
            time.sleep(0.05)
        os.killpg(calls[0].pid, signal.SIGKILL)
        assert [c.wait(timeout=900) for c in calls[1:]] == [0, 0], [p.read_text() for p in logs]
    finally:
        for process in calls:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert run_command("study", "run", str(file), "-o", str(folder), "-device", "cpu") == 0
    assert {r["state"] for r in records(folder).values()} == {"done"}
    assert scores(folder) == scores(alone)
    assert len(scores(folder)) == 4
    begun = "".join(p.read_text() for p in (folder / "logs").iterdir()).count(", attempt ")
    again = sum(r["attempts"] - 1 for r in records(folder).values())
    assert begun == 4 + again, "a training was in two hands"
    assert again <= 1
    assert not list(folder.glob("cells/*/*/*/lock*"))
