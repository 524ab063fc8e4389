"""Time of preprocessing against `nnUNetv2_preprocess`: same cases, same plans, same number of processes, in turns.

  python benchmarks/preprocess.py RAW_DATASET_FOLDER [-c 3d_fullres] [-np 2] [--rounds 3] [--cases 20] [--size S]

nnU-Net needs labels, so both work on the labelled dataset; beside it nnssl works on the same images without their labels,
as it does for a pool. The plans and the fingerprint are made before the clock starts. Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", type=Path)
    p.add_argument("-c", default="3d_fullres")
    p.add_argument("-np", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--cases", type=int, default=20)
    p.add_argument("--size", default="S")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = _datasets(a.dataset, root / "raw", a.cases)
        ours, theirs = root / "ours", root / "theirs"
        _run(root, ours, "-m", "nnssl.cli.plan_and_preprocess", "-d", "801", "802", "--no_pp", "--size", a.size)
        shutil.copytree(ours, theirs)
        times: dict[str, list[float]] = {"nnUNetv2_preprocess": [], "nnssl, labelled": [], "nnssl, unlabelled": []}
        for _ in range(a.rounds):
            again = ["-m", "nnssl.cli.plan_and_preprocess", "--only_pp", "--clean", "-c", a.c, "-np", str(a.np)]
            nnunet = (
                "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import preprocess_entry as f; f()"
            )
            flags = ["-d", "801", "-plans_name", "nnsslPlans", "-c", a.c, "-np", str(a.np)]
            times["nnUNetv2_preprocess"].append(_run(root, theirs, "-c", nnunet, *flags))
            times["nnssl, labelled"].append(_run(root, ours, *again, "-d", "801"))
            times["nnssl, unlabelled"].append(_run(root, ours, *again, "-d", "802"))
    reference = median(times["nnUNetv2_preprocess"])
    print(f"{a.dataset.name}, {count} cases, {a.c}, {a.np} processes, median of {a.rounds} rounds")
    for name, values in times.items():
        spread = f"{min(values):.1f}-{max(values):.1f}"
        print(f"  {name:<22}{median(values):7.1f} s  ({spread})   ratio {median(values) / reference:.2f}")


def _datasets(source: Path, raw: Path, cases: int) -> int:
    """Links to the first labelled cases, once with and once without labels."""
    content = json.loads((source / "dataset.json").read_text())
    ending = content["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))
    labels = labels[:: max(1, len(labels) // cases)][:cases]
    for name, keep in (("Dataset801_Labelled", True), ("Dataset802_Unlabelled", False)):
        (raw / name / "imagesTr").mkdir(parents=True)
        (raw / name / "labelsTr").mkdir()
        for label in labels:
            for image in source.glob(f"imagesTr/{label.name.removesuffix(ending)}_????{ending}"):
                (raw / name / "imagesTr" / image.name).symlink_to(image.resolve())
            if keep:
                (raw / name / "labelsTr" / label.name).symlink_to(label.resolve())
        classes = content["labels"] if keep else {"background": 0}
        about = {**content, "labels": classes, "numTraining": len(labels)}
        (raw / name / "dataset.json").write_text(json.dumps(about))
    return len(labels)


def _run(root: Path, preprocessed: Path, *arguments: str) -> float:
    folders = {"raw": root / "raw", "preprocessed": preprocessed, "results": root / "results"}
    environment = {**os.environ, **{f"nnUNet_{name}": str(path) for name, path in folders.items()}}
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
