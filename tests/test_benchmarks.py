"""The scripts in benchmarks/ run as they are, on the smallest things they can measure, and print their tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
NETWORK = "--patch 16 16 --features 4 8 16 --batch 2 --rounds 1"
# Script and arguments, and for each row of the table what it begins with and how many numbers follow.
RUNS: list[tuple[str, dict[str, int]]] = [
    (
        "curves.py -d 902 --steps 2 --batch-size 2 --set executor=tiles",
        {r"\(none\)": 3, "executor=tiles": 3},
    ),
    (
        f"executors.py {NETWORK} --ratios 0.5 --decoders unet light-1",
        {r"unet +0\.5": 7, r"light-1 +0\.5": 7},
    ),
    (
        "loader.py --synthetic 24 24 24 --patch 16 16 16 --batch 1 --batches 1 --rounds 1",
        {"read  ": 3, "read, cached  ": 3, "nnU-Net  ": 3, "order 3  ": 3, "read / nnU-Net:": 3, "read / order 3:": 3},
    ),
    (
        f"margins.py {NETWORK}",
        {"0 +4 +4 ": 8, "2 +1 +16 ": 8},
    ),
    (
        f"methods.py {NETWORK} --methods spark masked_region",
        {"spark": 7, "masked_region": 7},
    ),
    (
        "preprocess.py {raw}/Dataset901_Target -np 1 --rounds 1 --cases 2",
        {"nnUNetv2_preprocess": 4, "nnssl, labelled": 4, "nnssl, unlabelled": 4},
    ),
    (
        "readahead.py --synthetic 16 16 16 --patch 8 8 8 --cases 4 --batch 1 --workers 0 --ahead 0 1 --rounds 1",
        {"cold, readahead=0": 7, "cold, readahead=1": 7, "warm, readahead=1": 7},
    ),
    (
        "scaling.py pool --cases 10 --edges 16 --crops 2",
        {r"16\^3 +10": 7},
    ),
    (
        "scaling.py steps --edges 8 --batches 2 --ratios 0.5 --rounds 1",
        {"8 +2 +50%": 5},
    ),
    (
        "scaling.py ranks --edge 8 --batch 1 --steps 1 --rounds 1",
        {"processor time +alone": 5, "time +alone": 5, "all-reduce of the gradients alone": 3},
    ),
    (
        "scaling.py gpus --ms 80 --parameters 102e6",
        {"16  ": 5, "64  ": 5},
    ),
]
NUMBER = r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]\d+)?"
"""Not `nan`, which is then one too few."""


def test_every_script_is_run() -> None:
    scripts = {p.name for p in FOLDER.glob("*.py") if "\ndef main()" in p.read_text()}
    assert {command.split()[0] for command, _ in RUNS} == scripts


@pytest.mark.slow
@pytest.mark.parametrize(("command", "rows"), RUNS, ids=[command.partition(" -")[0] for command, _ in RUNS])
def test_the_table_has_its_numbers(command: str, rows: dict[str, int], pretraining: Path) -> None:
    script, *arguments = command.format(raw=pretraining / "raw").split()
    asked = [sys.executable, str(FOLDER / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    for begin, count in rows.items():
        [row] = re.findall(rf"^ *{begin}(.*)$", done.stdout, re.MULTILINE)
        values = [float(v) for v in re.findall(NUMBER, row)]
        assert len(values) == count, (begin, row)
        assert sum(values) > 0, row
