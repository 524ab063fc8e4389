"""Plans of nnssl beside nnU-Net's own for a labelled dataset: every entry that differs.

  python side_by_side.py RAW_DATASET_FOLDER [-pl nnsslPlanner] [--size M]

Both are made in a temporary folder, nnU-Net's by nnUNetv2_extract_fingerprint and nnUNetv2_plan_experiment with the
preset of the size (nnUNetPlannerResEncM, ...L, ...XL).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NNUNET = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import {0} as f; f()"
NAMES = ("plans_name", "experiment_planner_used", "data_identifier", "dataset_name")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", type=Path)
    p.add_argument("-pl", default="nnsslPlanner")
    p.add_argument("--size", default="M", choices=["M", "L", "XL"])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "raw").mkdir()
        name = a.dataset.name
        (root / "raw" / name).symlink_to(a.dataset.resolve())
        number = str(int(name[7:10]))
        _run(root, "theirs", "-c", NNUNET.format("extract_fingerprint_entry"), "-d", number)
        _run(
            root,
            "theirs",
            "-c",
            NNUNET.format("plan_experiment_entry"),
            "-d",
            number,
            "-pl",
            f"nnUNetPlannerResEnc{a.size}",
        )
        ours = ("-d", number, "-pl", a.pl, "--size", a.size, "--no_pp")
        _run(root, "ours", "-m", "nnssl.cli.plan_and_preprocess", *ours)
        theirs = json.loads((root / "theirs" / name / f"nnUNetResEncUNet{a.size}Plans.json").read_text())
        mine = json.loads((root / "ours" / name / "nnsslPlans.json").read_text())
    print(f"{name}: nnUNetPlannerResEnc{a.size} | {a.pl} --size {a.size}")
    for key, left, right in differences(theirs, mine):
        if key.rsplit(".", 1)[-1] not in NAMES:
            print(f"  {key}: {left} | {right}")


def differences(left: Any, right: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Entries that differ, as (key, left, right)."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(k for k in right if k not in left)]:
            yield from differences(left.get(key), right.get(key), f"{where}.{key}" if where else key)
    elif left != right:
        yield where, _short(left), _short(right)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return "planned"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _run(root: Path, preprocessed: str, *arguments: str) -> None:
    folders = {"raw": root / "raw", "preprocessed": root / preprocessed, "results": root / "results"}
    environment = {**os.environ, **{f"nnUNet_{name}": str(path) for name, path in folders.items()}}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    main()
