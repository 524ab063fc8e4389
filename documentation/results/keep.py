"""Copy of a study folder that others can read, check and continue: no images, no weights, no names of machines.

    python documentation/results/keep.py STUDY documentation/results/NAME/study

Continue it with `nnssl_study run NAME/study/study.yaml -o COPY`, where COPY is a copy of that folder: its cells are kept.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

KEPT = ("cell.json", "curve.csv", "test.csv", "scores.json", "predictions.csv", "load_report.json")


def keep(study: Path, to: Path) -> int:
    """Copy what is finished; returns the number of cells."""
    names = [name for name in ("nnUNet_results", "nnUNet_raw", "nnUNet_preprocessed") if name in os.environ]
    places = {str(Path(os.environ[name]).resolve()): f"${name}" for name in names}

    def portable(text: str) -> str:
        for place, name in places.items():
            text = text.replace(place, name)
        return text

    if not (study / "study.json").is_file():
        sys.exit(f"{study} holds no study")
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("study.yaml", "draws.json", "study.json"):
        text = portable((study / name).read_text())
        if name == "study.json":
            facts = json.loads(text)
            facts["machine"].pop("platform", None)
            text = json.dumps(facts, indent=1) + "\n"
        (to / name).write_text(text)
    study_now = json.loads((study / "study.json").read_text())["study"]
    count = 0
    for record in sorted(study.glob("cells/*/*/*/cell.json")):
        cell = json.loads(record.read_text())
        if cell["state"] != "done" or any(cell[k] not in study_now[f"{k}s"] for k in ("init", "count", "seed")):
            continue  # unfinished, or of an initialisation that the study file no longer names
        target = to / record.parent.relative_to(study)
        target.mkdir(parents=True)
        for name in KEPT:
            if (record.parent / name).is_file():
                shutil.copyfile(record.parent / name, target / name)
        cell.pop("host", None)
        (target / "cell.json").write_text(json.dumps(cell, indent=1) + "\n")
        count += 1
    return count


if __name__ == "__main__":
    print(keep(Path(sys.argv[1]), Path(sys.argv[2])), "cells")
