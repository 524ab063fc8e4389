"""What is known of a dataset without reading its images: folders, fingerprint, plans; only failing these, headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnssl.data.folders import (
    RawCase,
    is_labelled_dataset,
    nnunet_folder,
    raw_cases,
    read_dataset_json,
    resolve_dataset,
)
from nnssl.errors import MissingError
from nnssl.files import read_json
from nnssl.inspect.cases import KnownCase, cases_from_fingerprint, cases_from_headers, measured_cases
from nnssl.inspect.plan_facts import PlanFacts, read_plan_facts
from nnssl.inspect.words import dataset_number, made, size_of
from nnssl.planners.fingerprint import FINGERPRINT

IMPORT_REPORT = "import_report.json"


@dataclass(frozen=True)
class Facts:
    """All that the page and the summary say of a dataset beside pictures.

    Attributes:
        name: folder name of the dataset.
        channels: names, in order.
        classes: of the labels, background left out.
        raw: raw cases by name, usable or not; empty without a raw folder.
        cases: usable cases.
        skipped: name -> reason.
        outliers: name -> sentences.
        source: MEASURED, UNNAMED or HEADERS.
        labelled: number of usable cases with a label; None when unknown.
        reader: nnU-Net's reader class; None when unknown.
        raw_bytes: size of the image files.
        made: when the fingerprint was made; empty without one.
        pool_intensity: per channel, over the pool; as in nnU-Net's fingerprint.
        ct_histogram: channel index -> {low, step, counts}; see the fingerprint.
        import_report: what nnssl_import wrote, if it was used.
        plan: of the plans that were asked for, or the only ones there are.
        notes: what is missing or out of date, and what to do about it.
    """

    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    raw: Mapping[str, RawCase]
    cases: tuple[KnownCase, ...]
    skipped: Mapping[str, str]
    outliers: Mapping[str, Sequence[str]]
    source: str
    labelled: int | None
    reader: str | None
    raw_bytes: int
    made: str = ""
    pool_intensity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ct_histogram: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    import_report: Mapping[str, Any] | None = None
    plan: PlanFacts | None = None
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """The dataset's number as commands take it."""
        return dataset_number(self.name)


def is_dataset(text: str) -> bool:
    """Whether an argument names a dataset (a number, a name, or its folder) and no file."""
    path = Path(text)
    return not path.is_file() and (text.isdecimal() or path.name.startswith("Dataset"))


def preprocessed_folder(name: str) -> Path | None:
    """The dataset's folder below nnUNet_preprocessed, if there is one."""
    try:
        folder = nnunet_folder("nnUNet_preprocessed") / name
    except MissingError:
        return None
    return folder if folder.is_dir() else None


def collect(dataset: str, plans_name: str | None = None, processes: int = 1) -> Facts:
    """Collect what the files say of a dataset.

    Images are never read; headers only when no fingerprint knows the spacings.

    Args:
        dataset: number, name, or folder of a dataset.
        plans_name: plans to show; None takes nnsslPlans, else what there is.
        processes: workers, for reading headers.

    Raises:
        NnsslError: no such dataset, no usable dataset.json, or no such plans.
    """
    name, raw_folder = _find(dataset)
    number, notes = dataset_number(name), list[str]()
    root = preprocessed_folder(name)
    json_folder = raw_folder or root
    assert json_folder is not None  # _find found one of the two
    dataset_json = read_dataset_json(json_folder / "dataset.json")
    fingerprint = _optional_json(root / FINGERPRINT, notes) if root else None
    measured = measured_cases(fingerprint, number, notes)
    if measured is None:
        fingerprint = None
    raw = _raw(raw_folder, dataset_json, fingerprint is not None, notes)
    plan = read_plan_facts(root, name, plans_name, fingerprint, notes)
    if fingerprint is None:
        found = cases_from_headers(raw, dataset_json, processes, number, notes)
    else:
        found = cases_from_fingerprint(fingerprint, measured or [], raw, number, notes)
    block = (fingerprint or {}).get("nnssl") or {}
    return Facts(
        name=name,
        channels=tuple(str(c) for c in dataset_json["channel_names"].values()),
        classes=tuple(str(c) for c in dataset_json["labels"] if c not in ("background", "ignore")),
        raw=raw,
        cases=tuple(found.cases),
        skipped=found.skipped,
        outliers=block.get("outliers", {}),
        source=found.source,
        labelled=_labelled(raw, found.cases, dataset_json, plan),
        reader=block.get("reader") or (plan.reader if plan else None),
        raw_bytes=sum(size_of(Path(f)) for case in raw.values() for f in case.images),
        made=made(root / FINGERPRINT) if root and fingerprint is not None else "",
        pool_intensity=(fingerprint or {}).get("foreground_intensity_properties_per_channel") or {},
        ct_histogram=block.get("ct_histogram") or {},
        import_report=_optional_json(raw_folder / IMPORT_REPORT, notes) if raw_folder else None,
        plan=plan,
        notes=tuple(notes),
    )


def _find(dataset: str) -> tuple[str, Path | None]:
    """Name of a dataset, and its raw folder if it has one; it may be in nnUNet_raw, nnUNet_preprocessed or both."""
    wanted = Path(dataset).name if dataset not in ("", ".", "..") else dataset
    try:
        name = resolve_dataset(wanted, "nnUNet_raw")
        return name, nnunet_folder("nnUNet_raw") / name
    except MissingError as not_raw:
        try:
            return resolve_dataset(wanted, "nnUNet_preprocessed"), None
        except MissingError as not_preprocessed:
            if "is not set" in str(not_preprocessed) or "is not a folder" in str(not_preprocessed):
                raise not_raw from None
            raise MissingError(f"{str(not_raw).rstrip('.')}. Nor is it in nnUNet_preprocessed") from None


def _raw(
    folder: Path | None, dataset_json: dict[str, Any], known_otherwise: bool, notes: list[str]
) -> dict[str, RawCase]:
    """Raw cases by name; without images only a note where the fingerprint knows the cases."""
    if folder is None:
        notes.append("the raw images are not in nnUNet_raw: no thumbnails")
        if not known_otherwise:
            raise MissingError("there is neither a fingerprint of this dataset nor its raw images in nnUNet_raw")
        return {}
    try:
        return {case.name: case for case in raw_cases(folder, dataset_json)}
    except MissingError as missing:
        if not known_otherwise:
            raise
        notes.append(f"{missing}: no thumbnails")
        return {}


def _labelled(
    raw: Mapping[str, RawCase], cases: Sequence[KnownCase], dataset_json: dict[str, Any], plan: PlanFacts | None
) -> int | None:
    if not is_labelled_dataset(dataset_json):
        return 0
    if raw:
        return sum(1 for case in cases if case.name in raw and raw[case.name].label)
    ready = [c.labelled_cases for c in plan.configurations if c.cases] if plan else []
    return max(ready) if ready else None


def _optional_json(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Content of a JSON file that need not exist; one that cannot be read is a note."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return None
    if not isinstance(content, dict):
        notes.append(f"{path.name} does not hold a JSON object")
        return None
    return content
