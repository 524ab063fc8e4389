"""Names of cases and subjects: numbers, unless the names are public already or the user wants to keep them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from nnssl.data.folders import why_not_as
from nnssl.data.importing.datasets import dataset_label
from nnssl.data.importing.items import DICOM, Item

DIGITS = 4


class CaseNames:
    """Gives every item that is taken its name; the order of calls decides the numbers.

    Args:
        pool: the pool's name, which numbered names begin with.
        datasets: folders of the datasets whose cases get the dataset's number in front.
        keep: keep the names of files (never of DICOM files).
        taken: names that are in use already.
    """

    def __init__(self, pool: str, datasets: Collection[str], keep: bool, taken: Collection[str] = ()) -> None:
        self.pool = pool
        self.keep = keep
        self.labels = _labels(datasets)
        self.taken = {_base(name) for name in taken}
        numbers = [int(m.group(1)) for n in self.taken if (m := re.fullmatch(rf"{re.escape(pool)}_(\d+)", n))]
        self.last = max(numbers, default=0)

    def next(self, item: Item) -> str:
        """Name of the item's case, not used before."""
        if item.dataset or (self.keep and item.kind != DICOM):
            wanted = re.sub(r"[^A-Za-z0-9_.+-]+", "_", item.name).strip("_.") or self.pool
            if item.dataset in self.labels:
                wanted = f"{self.labels[item.dataset]}_{wanted}"
            if why_not_as(wanted):
                wanted = f"{wanted}_image"
            name, n = wanted, 2
            while name in self.taken:
                name, n = f"{wanted}_{n}", n + 1
        else:
            self.last += 1
            name = f"{self.pool}_{self.last:0{DIGITS}d}"
        self.taken.add(name)
        return name


def frame_name(case: str, frame: int, frames: int) -> str:
    """Name of one frame (counted from 0) of a case; a case of one frame has no number."""
    return case if frames == 1 else f"{case}_frame{frame + 1:03d}"


class SubjectNames:
    """Numbers subjects in the order in which they are met; names of subjects in nnU-Net datasets stay.

    Args:
        datasets: folders of the datasets whose subjects get the dataset's number in front.
        taken: names of subjects that are in use already.
    """

    def __init__(self, datasets: Collection[str], taken: Collection[str] = ()) -> None:
        self.labels = _labels(datasets)
        self.names: dict[str, str] = {}
        numbers = [int(m.group(1)) for n in taken if (m := re.fullmatch(r"subject_(\d+)", n))]
        self.last = max(numbers, default=0)

    def name(self, item: Item, case: str, frames: int) -> str:
        """Subject of an item; empty if not known. Frames of one series show one subject at any rate."""
        key = item.subject or (f"series|{case}" if frames > 1 else "")
        if not key:
            return ""
        if item.subject_name:
            label = self.labels.get(item.dataset)
            return f"{label}_{item.subject_name}" if label else item.subject_name
        if key not in self.names:
            self.last += 1
            self.names[key] = f"subject_{self.last:0{DIGITS}d}"
        return self.names[key]


def _labels(datasets: Collection[str]) -> dict[str, str]:
    """Folder -> what its names begin with; two datasets of one number keep apart."""
    labels: dict[str, str] = {}
    for folder in sorted(datasets):
        label, n = dataset_label(Path(folder)), 2
        while label in labels.values():
            label, n = f"{dataset_label(Path(folder))}-{n}", n + 1
        labels[folder] = label
    return labels


def _base(name: str) -> str:
    return re.sub(r"_frame\d{3,}$", "", name)
