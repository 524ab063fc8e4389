"""nnU-Net's three folders and its datasets, with errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.data.checked import check_description, check_plans
from nnssl.errors import MissingError, NnsslError, did_you_mean
from nnssl.files import read_json

_EXAMPLE = {"nnUNet_raw": "raw data", "nnUNet_preprocessed": "preprocessed data", "nnUNet_results": "trained models"}


def nnunet_folder(variable: str, create: bool = False) -> Path:
    """Folder behind `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results`.

    Args:
        variable: name of the environment variable.
        create: make the folder when the variable is set and the folder is missing.
    """
    value = os.environ.get(variable)
    if not value:
        raise MissingError(
            f"environment variable {variable} is not set: set it to the folder for {_EXAMPLE[variable]}, "
            f'for example: export {variable}="$HOME/nnunet/{variable.removeprefix("nnUNet_")}"'
        )
    folder = Path(value).expanduser()
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NnsslError(f"{variable}={value}: the folder cannot be made ({error.strerror})") from error
    if not folder.is_dir():
        raise MissingError(f"{variable}={value} is not a folder: create it or correct the variable")
    return folder


def resolve_dataset(dataset: str | int, where: str = "nnUNet_raw") -> str:
    """`4`, `"004"` or `"Dataset004_Hippocampus"` -> the dataset's folder name below one of nnU-Net's folders."""
    folder = nnunet_folder(where)
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name.startswith("Dataset"))
    text = str(dataset)
    if text.startswith("Dataset"):
        matches = [n for n in names if n == text]
    elif text.isdecimal():
        matches = [n for n in names if n.startswith(f"Dataset{int(text):03d}_") or n == f"Dataset{int(text):03d}"]
    else:
        raise NnsslError(f"'{text}' is neither a dataset number nor a name like Dataset004_Hippocampus")
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise NnsslError(f"dataset {text} is ambiguous in {where}={folder}: {', '.join(matches)}; give the full name")
    known = ", ".join(names[:20]) or "none"
    raise MissingError(
        f"dataset {text} not found in {where}={folder}. Datasets there: {known}.{did_you_mean(text, names)}"
    )


def read_plans(dataset_name: str, plans_name: str) -> dict[str, Any]:
    """Plans of a dataset, with an error that lists those there are."""
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name
    path = folder / f"{plans_name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*Plans*.json") if not p.stem.endswith(("_pool", "_report")))
        raise MissingError(
            f"plans '{plans_name}' of {dataset_name} not found in {folder} (there: {', '.join(known) or 'none'}): "
            "plan and preprocess the dataset first, or name other plans"
        )
    return check_plans(read_json(path), path)


def check_configuration(plans: Mapping[str, Any], configuration: str, plans_name: str, dataset_name: str) -> None:
    """Whether plans have a configuration.

    Raises:
        NnsslError: they do not; the line names those they have.
    """
    known = list(plans["configurations"])
    if configuration not in known:
        raise NnsslError(
            f"configuration '{configuration}' is not in {plans_name} of {dataset_name}."
            f"{did_you_mean(configuration, known)} There are: {', '.join(known)}"
        )


@dataclass(frozen=True)
class RawCase:
    """One case of a raw dataset: its image files (one per channel) and its label file, if it has one."""

    name: str
    images: tuple[str, ...]
    label: str | None


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Read a raw dataset's dataset.json and fill in what unlabelled data need not have.

    Missing `labels` become `{"background": 0}`. `channel_names` (or the older `modality`) and `file_ending` are needed.
    """
    if not path.is_file():
        raise MissingError(
            f"{path} is missing: every dataset needs a dataset.json with channel_names and file_ending, "
            'for example {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}'
        )
    try:
        content = read_json(path)
    except ValueError as error:
        raise NnsslError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{path} must hold a JSON object")
    if "channel_names" not in content and "modality" in content:
        content["channel_names"] = content["modality"]
    for key in ("channel_names", "file_ending"):
        if not content.get(key):
            raise NnsslError(f"{path} has no '{key}': add it (see nnU-Net's dataset format)")
    content.setdefault("labels", {"background": 0})
    return check_description(content, path)


def raw_cases(dataset_folder: Path, dataset_json: dict[str, Any]) -> list[RawCase]:
    """Cases of a raw dataset that can be preprocessed under their names, labelled or not, sorted by name."""
    return [case for case in all_raw_cases(dataset_folder, dataset_json) if not why_not_as(case.name)]


def why_not_as(name: str) -> str:
    """Why a case cannot be preprocessed under its name; empty if it can."""
    if not name.endswith("_seg"):
        return ""
    return (
        "nnU-Net takes preprocessed files of names that end in _seg for labels: rename the case's files, for example to "
        f"{name}_image"
    )


def all_raw_cases(dataset_folder: Path, dataset_json: dict[str, Any]) -> list[RawCase]:
    """Cases of a raw dataset, whatever their names, sorted by name.

    Files are `imagesTr/CASE_0000<ending>`, ... and `labelsTr/CASE<ending>` as in nnU-Net, or whatever the optional
    `dataset` block of dataset.json lists (its `label` may be absent).
    """
    if "dataset" in dataset_json:
        return [_listed_case(dataset_folder, n, entry) for n, entry in sorted(dataset_json["dataset"].items())]
    images = dataset_folder / "imagesTr"
    ending = dataset_json["file_ending"]
    if not images.is_dir():
        raise MissingError(f"{images} is missing: put the images there as CASE_0000{ending}")
    by_case = image_files(images, ending)
    if not by_case:
        raise MissingError(
            f"no images like CASE_0000{ending} in {images}: check file_ending in dataset.json and the names"
        )
    cases = []
    for name, files in by_case.items():
        label = dataset_folder / "labelsTr" / f"{name}{ending}"
        cases.append(RawCase(name, files, str(label) if label.is_file() else None))
    return cases


def image_files(folder: Path, ending: str) -> dict[str, tuple[str, ...]]:
    """Case -> its files in the order of the channels, of images `CASE_0000<ending>`, `CASE_0001<ending>`, ...; by name."""
    by_case: dict[str, dict[int, str]] = {}
    for entry in os.scandir(folder):
        stem = entry.name.removesuffix(ending)
        name, _, channel = stem.rpartition("_")
        if entry.name.endswith(ending) and not entry.name.startswith(".") and len(channel) == 4 and channel.isdecimal():
            by_case.setdefault(name, {})[int(channel)] = entry.path
    return {name: tuple(files[c] for c in sorted(files)) for name, files in sorted(by_case.items())}


def _listed_case(folder: Path, name: str, entry: dict[str, Any]) -> RawCase:
    def resolve(file: str) -> str:
        return str(folder / os.path.expandvars(file))  # nnU-Net expands them, too

    label = entry.get("label")
    return RawCase(name, tuple(resolve(f) for f in entry["images"]), resolve(label) if label else None)


def is_labelled_dataset(dataset_json: dict[str, Any]) -> bool:
    """Whether dataset.json names any class beside the background."""
    return any(name not in ("background", "ignore") for name in dataset_json["labels"])
