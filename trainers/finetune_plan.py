"""Plans for a fine-tuning: a copy of a target's plans with everything that `nnUNetv2_train` has no flag for."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnssl.trainers.finetune_init import adapted
from nnssl.trainers.finetune_settings import FinetuneSettings, check_fits, settings_from_plans
from nnssl.trainers.recipes import EPOCHS
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.folders import check_configuration, is_labelled_dataset, nnunet_folder, read_dataset_json, read_plans
from nnssl.data.plan_names import check_plans_name
from nnssl.data.pool import read_pool, read_splits
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError
from nnssl.files import read_json, write_json
from nnssl.transfer import LoadReport, target_of

TRAINERS = {
    "warmup": "nnUNetTrainer_SSLWarmup",
    "sawtooth": "nnUNetTrainer_SSLSawtooth",
    "frozen": "nnUNetTrainer_SSLFrozenEncoder",
    "scratch": "nnUNetTrainer_SSLScratch",
}
"""Schedule -> fine-tuning trainer."""


def finetune_plans(
    dataset: str,
    plans_name: str,
    name: str,
    settings: Mapping[str, Any],
    configuration: str,
    overwrite: bool,
    schedule: str = "warmup",
) -> LoadReport | None:
    """Write a copy of a target's plans with a `"nnssl"` block; the weights it names are fitted once, for trial.

    Args:
        dataset: the target's folder name.
        plans_name: plans to copy.
        name: of the copy. Preprocessed data are shared with the original.
        settings: of the block, see `FinetuneSettings`; None values are left out.
        configuration: that the weights are tried on.
        overwrite: replace plans of that name that were written so.
        schedule: one of `TRAINERS`.

    Returns:
        What the trial load would do, or None without weights.

    Raises:
        NnsslError: the weights do not fit, or a value is out of range; nothing is written then.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    plans = copy.deepcopy(read_plans(dataset, plans_name))
    check_configuration(plans, configuration, plans_name, dataset)
    check_plans_name(name, "-o")
    path = folder / f"{name}.json"
    if name == plans_name or (path.is_file() and not overwrite):
        raise NnsslError(f"{path} exists: choose another name with -o, or give --overwrite")
    if path.is_file() and "nnssl" not in read_json(path):
        raise NnsslError(f"-o {name}: {path} was not written by nnssl_plan_finetune: choose another name")
    plans["plans_name"] = name
    plans["nnssl"] = {k: v for k, v in settings.items() if v is not None}
    wanted = settings_from_plans(plans)
    check_fits(wanted, wanted.num_epochs or EPOCHS, _stages(plans, configuration), schedule == "sawtooth")
    report = _trial(plans, configuration, dataset, wanted)
    write_json(plans, path)
    return report


def _stages(plans: dict[str, Any], configuration: str) -> int | None:
    settings = PlansManager(copy.deepcopy(plans)).get_configuration(configuration).configuration
    found = settings.get("architecture", {}).get("arch_kwargs", {}).get("n_stages")
    return int(found) if found is not None else None


def _trial(plans: dict[str, Any], configuration: str, dataset: str, settings: FinetuneSettings) -> LoadReport | None:
    if settings.init is None:
        return None
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    fingerprint = folder / "dataset_fingerprint.json"
    target = target_of(
        plans,
        PlansManager(copy.deepcopy(plans)).get_configuration(configuration).configuration,
        read_dataset_json(folder / "dataset.json"),
        read_json(fingerprint) if fingerprint.is_file() else None,
    )
    return adapted(settings, target)[1]


def draw_cases(dataset: str, plans_name: str, configuration: str, fold: int | str, count: int, seed: int) -> list[str]:
    """Training cases for a training with few labels.

    Patients are put in an order by the seed, and their cases are taken in that order, so that a smaller draw is part of
    a larger one of the same seed, and the cases of one patient stay together as far as the number allows.

    Args:
        dataset: the target's folder name.
        plans_name, configuration: its plans; cases that are preprocessed for them are drawn from.
        fold: whose training cases to draw from.
        count: how many.
        seed: of the order.

    Raises:
        NnsslError: the fold has fewer training cases.
    """
    training = training_cases(dataset, plans_name, configuration, fold)
    if count > len(training):
        raise NnsslError(f"--train-cases {count}: fold {fold} of {dataset} has {len(training)} training cases")
    raw = nnunet_folder("nnUNet_raw") / dataset
    subjects = read_subjects(raw, training) if raw.is_dir() else {}
    patients: dict[str, list[str]] = {}
    for case in training:
        patients.setdefault(subjects.get(case, case), []).append(case)
    order = np.random.default_rng(seed).permutation(len(patients))
    names = sorted(patients)
    return [case for i in order for case in patients[names[i]]][:count]


def training_cases(dataset: str, plans_name: str, configuration: str, fold: int | str) -> list[str]:
    """Labelled cases that a fold of nnU-Net's split trains on, sorted.

    Without a splits_final.json nnU-Net splits the cases that lie in the configuration's folder, and so does this.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    if not is_labelled_dataset(read_dataset_json(folder / "dataset.json")):
        raise NnsslError(f"{dataset} has no labels to draw from")
    settings = PlansManager(copy.deepcopy(read_plans(dataset, plans_name))).get_configuration(configuration)
    labelled = sorted(case.name for case in read_pool(folder, settings.data_identifier).cases if case.labelled)
    if not labelled:
        raise NnsslError(f"{folder / settings.data_identifier} holds no labelled cases: preprocess {dataset} again")
    if fold == "all":
        return labelled
    splits: Sequence[Mapping[str, Any]] = read_splits(folder) or generate_crossval_split(
        labelled, seed=12345, n_splits=5
    )
    if not 0 <= int(fold) < len(splits):
        raise NnsslError(f"fold {fold} does not exist: the split has folds 0 to {len(splits) - 1}")
    return sorted(str(c) for c in splits[int(fold)]["train"])


def next_command(dataset: str, configuration: str, fold: int | str, name: str, schedule: str) -> str:
    """What to type after the plans are written."""
    return f"nnUNetv2_train {dataset} {configuration} {fold} -p {name} -tr {TRAINERS[schedule]}"


def absolute(path: str) -> str:
    """A local file by its absolute path, so that the training finds it from anywhere; other sources as they are."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().is_file() else path
