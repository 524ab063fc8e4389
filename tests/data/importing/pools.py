"""What tests of whole imports share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.conftest import run_command
from tests.data.importing import dicom_files as d


def ct(seed: int = 0, shape: tuple[int, int, int] = (12, 20, 24)) -> np.ndarray:
    return (d.volume(shape, seed).astype(np.int16) - 1024).astype(np.int16)


def cases(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "imagesTr").iterdir())


def report(folder: Path) -> dict:
    return json.loads((folder / "import_report.json").read_text())


def import_into(number: int, *arguments: object, name: str = "Pool", processes: int = 1) -> int:
    texts = [str(a) for a in arguments]
    return run_command("import_data", *texts, "-d", str(number), "-n", name, "-np", str(processes))
