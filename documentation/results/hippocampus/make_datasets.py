"""Make the two datasets of the Hippocampus comparison from Medical Segmentation Decathlon Task04 in nnU-Net's raw layout.

Dataset104: the images of all cases but the 40 of the validation set, without labels (the pool).
Dataset105: 20 of these cases with labels and the 40 validation cases; fold s of its split trains on draw s of 10 cases.

usage: python make_datasets.py SOURCE_DATASET_FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def main() -> None:
    source, raw = Path(sys.argv[1]), Path(os.environ["nnUNet_raw"])
    description = json.loads((source / "dataset.json").read_text())
    ending = description["file_ending"]
    cases = sorted(p.name.removesuffix(ending) for p in (source / "labelsTr").glob(f"*{ending}"))
    order = [str(c) for c in np.random.default_rng(2026).permutation(cases)]
    validation, rest = sorted(order[:40]), order[40:]
    draws = [sorted(rest[:10]), sorted(rest[10:20])]

    pool, target = raw / "Dataset104_HippocampusPool", raw / "Dataset105_HippocampusFew"
    for case in rest:
        link(source / "imagesTr" / f"{case}_0000{ending}", pool / "imagesTr" / f"{case}_0000{ending}")
    for case in [*draws[0], *draws[1], *validation]:
        link(source / "imagesTr" / f"{case}_0000{ending}", target / "imagesTr" / f"{case}_0000{ending}")
        link(source / "labelsTr" / f"{case}{ending}", target / "labelsTr" / f"{case}{ending}")
    common = {"channel_names": description["channel_names"], "file_ending": ending}
    (pool / "dataset.json").write_text(
        json.dumps({**common, "labels": {"background": 0}, "numTraining": len(rest)}, indent=1)
    )
    (target / "dataset.json").write_text(
        json.dumps({**common, "labels": description["labels"], "numTraining": 60}, indent=1)
    )
    splits = [{"train": draw, "val": validation} for draw in draws]
    (target / "splits_final.json").write_text(json.dumps(splits, indent=1))
    print(f"pool {len(rest)} cases, target {len(draws)} draws of 10 cases, {len(validation)} validation cases")


if __name__ == "__main__":
    main()
