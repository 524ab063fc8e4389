"""Datasets that are images already sorted: nnU-Net's raw folders, and Decathlon tasks as downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nnssl.data.folders import RawCase, nnunet_folder, raw_cases, resolve_dataset
from nnssl.data.importing.items import MSD, NNUNET, Item
from nnssl.data.subjects import read_subjects
from nnssl.errors import MissingError, NnsslError
from nnssl.files import read_json

FORMATS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def is_dataset(folder: Path) -> bool:
    """Whether a folder is laid out like nnU-Net's raw datasets or the Decathlon's tasks."""
    return (folder / "dataset.json").is_file() and ((folder / "imagesTr").is_dir() or (folder / "imagesTs").is_dir())


def find_source(text: str) -> Path:
    """A path, or the number or name of a dataset in nnUNet_raw.

    Raises:
        MissingError: neither.
    """
    path = Path(text).expanduser()
    if path.exists():
        return path
    if text.isdecimal() or re.fullmatch(r"Dataset\d+(_\w*)?", text):
        return nnunet_folder("nnUNet_raw") / resolve_dataset(text)
    raise MissingError(f"source {text} does not exist: give a folder, a file, or the number of a dataset in nnUNet_raw")


def dataset_items(folder: Path, with_test: bool) -> tuple[list[Item], tuple[str, ...]]:
    """Images of a dataset (never its labels), in the order of their names, and the names of its channels.

    Args:
        folder: with dataset.json.
        with_test: also the images of imagesTs.

    Raises:
        NnsslError: dataset.json cannot be used.
    """
    content = _description(folder)
    names = tuple(str(n) for n in _channels(folder, content).values())
    items = _decathlon(folder, with_test) if _is_decathlon(folder, content) else _nnunet(folder, content, with_test)
    return items, names


def dataset_label(folder: Path) -> str:
    """What case names begin with when several datasets are merged: the number, else the folder's name."""
    number = re.match(r"(?:Dataset|Task)_?(\d+)", folder.name)
    return f"{int(number.group(1)):03d}" if number else re.sub(r"[^A-Za-z0-9]+", "-", folder.name).strip("-")


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise NnsslError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{path} must hold a JSON object")
    return content


def _channels(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("channel_names") or content.get("modality")
    if not isinstance(found, dict) or not found:
        raise NnsslError(f"{folder / 'dataset.json'} has neither channel_names nor modality: add channel_names")
    return found


def _is_decathlon(folder: Path, content: dict[str, Any]) -> bool:
    """Decathlon tasks list their images under the files' own names; nnU-Net's first version left out the _0000."""
    if "channel_names" in content or "modality" not in content:
        return False
    entries = [*content.get("training", []), *content.get("test", [])]
    listed = [str(entry.get("image", "")) if isinstance(entry, dict) else str(entry) for entry in entries]
    if any((folder / name).is_file() for name in listed if name):
        return True
    files = _files(folder / "imagesTr", FORMATS) or _files(folder / "imagesTs", FORMATS)
    return not all(re.search(r"_\d{4}$", stem_of(file)) for file in files)


def _decathlon(folder: Path, with_test: bool) -> list[Item]:
    items = []
    for part in ("imagesTr", "imagesTs") if with_test else ("imagesTr",):
        for file in _files(folder / part, FORMATS):
            where = f"{folder.name}/{part}/{file.name}"
            items.append(
                Item(MSD, ((str(file),),), where, where, stem_of(file), dataset=str(folder), channels_last=True)
            )
    return items


def _nnunet(folder: Path, content: dict[str, Any], with_test: bool) -> list[Item]:
    ending = content.setdefault("file_ending", ".nii.gz")  # datasets of nnU-Net's first version do not say
    if ending not in FORMATS:
        raise NnsslError(
            f"{folder.name}: images with the ending '{ending}' are not imported; such a dataset is planned as it is: "
            f"nnssl_plan_and_preprocess -d {folder.name}"
        )
    cases = raw_cases(folder, content) if (folder / "imagesTr").is_dir() or "dataset" in content else []
    if with_test:
        cases = cases + _test_cases(folder, ending)
    subjects = read_subjects(folder, [case.name for case in cases])
    items = []
    for case in cases:
        where = f"{folder.name}/{Path(case.images[0]).parent.name}/{case.name}"
        subject = subjects.get(case.name, "")
        key = f"{folder}|{subject}" if subject else ""
        items.append(
            Item(
                NNUNET, (case.images,), where, where, case.name, subject=key, subject_name=subject, dataset=str(folder)
            )
        )  # fmt: skip
    return items


def _test_cases(folder: Path, ending: str) -> list[RawCase]:
    by_case: dict[str, list[str]] = {}
    for file in _files(folder / "imagesTs", (ending,)):
        name, _, channel = file.name.removesuffix(ending).rpartition("_")
        if len(channel) == 4 and channel.isdecimal():
            by_case.setdefault(name, []).append(str(file))
    return [RawCase(name, tuple(files), None) for name, files in sorted(by_case.items())]


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Image files of a folder, without the hidden ones that other systems leave behind (`._name`)."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(endings) and not p.name.startswith("."))


def stem_of(path: Path) -> str:
    """File name without the ending of an image format."""
    name = path.name
    ending = next((e for e in FORMATS if name.lower().endswith(e)), path.suffix)
    return name[: len(name) - len(ending)]
