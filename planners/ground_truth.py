"""The labels of a dataset's preprocessed cases, where nnU-Net's validation looks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from nnssl.planners.fingerprint import PIECES

from nnssl.data.folders import is_labelled_dataset, nnunet_folder, raw_cases, read_dataset_json
from nnssl.files import atomic_path

ENDINGS = (".b2nd", ".npz")
"""Of preprocessed cases: nnU-Net's now, and before version 2.6."""


def update_ground_truth(dataset_name: str) -> int:
    """Make `gt_segmentations`, where nnU-Net's validation looks, hold the labels of the preprocessed cases.

    Cases count that any configuration of any plans has stored, nnU-Net's own included. Labels of others, which are gone or
    were left out since, are removed: whoever takes them for cases splits otherwise than nnU-Net.

    Returns:
        How many there are.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset_name
    target = nnunet_folder("nnUNet_preprocessed") / dataset_name / "gt_segmentations"
    dataset_json = read_dataset_json(raw / "dataset.json")
    ending, stored = dataset_json["file_ending"], _stored_cases(target.parent)
    labelled = [c for c in raw_cases(raw, dataset_json) if c.label and c.name in stored]
    for path in target.iterdir() if target.is_dir() else ():
        if path.name.endswith(ending) and path.name.removesuffix(ending) not in stored:
            path.unlink()
    if not is_labelled_dataset(dataset_json) or not labelled:
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for case in labelled:
        destination = target / f"{case.name}{ending}"
        source = Path(str(case.label))
        if not destination.is_file() or source.stat().st_mtime > destination.stat().st_mtime:
            with atomic_path(destination) as path:
                shutil.copyfile(source, path)
    return len(labelled)


def _stored_cases(root: Path) -> set[str]:
    """Cases in a dataset's data folders."""
    found = set[str]()
    for folder in root.iterdir():
        if folder.is_dir() and folder.name != PIECES:
            files = (p for p in folder.iterdir() if p.suffix in ENDINGS and not p.name.startswith("."))
            found.update(p.name.removesuffix(p.suffix) for p in files)
    return {name for name in found if not name.endswith("_seg")}
