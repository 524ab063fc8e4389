"""A study file to begin with: cases chosen, defaults written out, every entry explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnssl.data.folders import nnunet_folder, read_plans, resolve_dataset
from nnssl.data.pool import read_splits
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError, did_you_mean
from nnssl.evaluate.study.run_cell import known_fingerprint
from nnssl.evaluate.study.spec import StudyConfig, Unit, parse_study
from nnssl.files import atomic_path, write_json
from nnssl.trainers.finetune_plan import absolute, training_cases
from nnssl.transfer.reading import read_weights

EVALUATIONS = 20
"""Points of a learning curve, about."""
SHORT = 5000
"""Below so many steps nnU-Net's SGD is out of its depth (science: it stayed at all-background for 240 steps)."""
VALIDATION_SHARE = 0.25
FOLDS = 5


def propose(
    *,
    dataset: str,
    plans: str,
    configuration: str,
    fold: int,
    inits: Sequence[tuple[str, str]],
    counts: Sequence[int],
    unit: Unit,
    seeds: int,
    steps: int,
    test_cases: int | None,
    stock: bool,
    name: str,
) -> tuple[StudyConfig, list[str]]:
    """A study of a target.

    The fold's training cases are drawn from; its validation cases become the fixed validation and test cases, so that an
    encoder pretrained with `nnssl_pretrain -f FOLD` has seen none of them.

    Returns:
        The study, and what a user should know.

    Raises:
        NnsslError: no such plans or configuration, too few cases, or weights that cannot be read.
    """
    full = resolve_dataset(dataset, "nnUNet_preprocessed")
    known = read_plans(full, plans)["configurations"]
    if configuration not in known:
        raise NnsslError(
            f"configuration '{configuration}' is not in {plans} of {full}.{did_you_mean(configuration, list(known))} "
            f"There are: {', '.join(known)}"
        )
    notes = _need_splits(full)
    training = training_cases(full, fold)
    held_out = sorted(str(c) for c in (read_splits(nnunet_folder("nnUNet_preprocessed") / full) or [])[fold]["val"])
    validation, test = _share_out(full, held_out, test_cases)
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3} if steps < SHORT else {}
    rows: dict[str, dict[str, Any]] = {"scratch": {"schedule": "scratch", **settings}}
    if stock:
        rows["nnunet"] = {"schedule": "nnunet"}
    for label, file in inits:
        read_weights(file)  # now, and not when the study runs
        if label in rows:
            raise NnsslError(f"--init {label}=...: the name is taken, give another one")
        rows[label] = {"init": absolute(file), "schedule": "warmup", **settings}
    step = max(1, steps // EVALUATIONS)
    content = {
        "name": name,
        "dataset": full,
        "plans": plans,
        "configuration": configuration,
        "control": "scratch",
        "inits": rows,
        "counts": sorted(set(counts)),
        "unit": unit,
        "seeds": list(range(seeds)),
        "steps": steps // step * step,
        "evaluate_every": step,
        "training": training,
        "validation": validation,
        "test": test,
    }
    study = parse_study(content, "the proposed study")
    dropped, study = _without_twins(study)
    if seeds < 5:
        notes.append(f"{seeds} draw(s) are a first look; conclusions want five or more (--seeds 5)")
    return study, notes + dropped


def _need_splits(dataset: str) -> list[str]:
    """nnU-Net makes its splits when it first trains, and by case: here they are needed now, and by patient."""
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    if read_splits(folder):
        return []
    cases = training_cases(dataset, "all")
    subjects = read_subjects(nnunet_folder("nnUNet_raw") / dataset, cases)
    patients: dict[str, list[str]] = {}
    for case in cases:
        patients.setdefault(subjects.get(case, case), []).append(case)
    if len(patients) < FOLDS:
        raise NnsslError(
            f"{dataset} has {len(patients)} patients, too few to hold some out: a study needs at least {FOLDS}"
        )
    splits = [
        {part: sorted(c for p in fold[part] for c in patients[str(p)]) for part in ("train", "val")}
        for fold in generate_crossval_split(sorted(patients), seed=12345, n_splits=FOLDS)
    ]
    write_json(splits, folder / "splits_final.json")
    return [f"{dataset} had no splits_final.json: made one of {FOLDS} folds by patient, as nnU-Net does by case"]


def _share_out(dataset: str, held_out: Sequence[str], test_cases: int | None) -> tuple[list[str], list[str]]:
    """Validation and test cases, whole patients; the same for every study of that fold and number."""
    subjects = read_subjects(nnunet_folder("nnUNet_raw") / dataset, held_out)
    patients: dict[str, list[str]] = {}
    for case in held_out:
        patients.setdefault(subjects.get(case, case), []).append(case)
    names = sorted(patients)
    order = [patients[names[i]] for i in np.random.default_rng(0).permutation(len(names))]
    wanted = test_cases or len(held_out) - max(1, round(VALIDATION_SHARE * len(held_out)))
    test: list[str] = []
    while order and len(test) + len(order[0]) <= wanted:
        test += order.pop(0)
    validation = [case for patient in order for case in patient]
    if not test or not validation:
        raise NnsslError(
            f"the fold holds out {len(held_out)} cases of {len(patients)} patients: not enough for {wanted} test cases and "
            "at least one validation case (--test-cases)"
        )
    if test_cases is not None:  # those that are in neither would only make curves slower
        validation = validation[: max(1, round(test_cases * VALIDATION_SHARE / (1 - VALIDATION_SHARE)))]
    return sorted(validation), sorted(test)


def _without_twins(study: StudyConfig) -> tuple[list[str], StudyConfig]:
    """Take cases out of training whose voxels are in validation or test under another name."""
    digests = known_fingerprint(study).get("nnssl", {}).get("cases", {})
    held = {digests[c] for c in (*study.validation, *study.test) if c in digests}
    twins = [c for c in study.training if digests.get(c) in held]
    if not twins:
        return [], study
    left = [c for c in study.training if c not in twins]
    said = f"left out of training, because their voxels are in validation or test too: {', '.join(twins)}"
    return [said], study.model_copy(update={"training": left})


COMMENTS = {
    "dataset": "the labelled target, as nnssl_plan_and_preprocess or nnUNetv2_plan_and_preprocess left it",
    "control": "what the others are compared with",
    "inits": "schedule: warmup, sawtooth, frozen (a diagnosis), scratch, or nnunet (the stock trainer as it is).\n"
    "Also per entry: decoder (pretrained|fresh), lr, optimizer (sgd|adamw), warmup (share of the steps), layer_decay,\n"
    "new_layers_lr (factor on the rate of what is not pretrained), rescale (true|false), freeze_stages, min_coverage.\n"
    "A control that is compared fairly runs at its own best rate: try several entries with schedule scratch.",
    "counts": "how many labelled ... to train on; see unit",
    "unit": "case, patient (with all its cases), or slice (2D: spread over patients)",
    "seeds": "each seed draws other training cases, the same for every initialisation; fewer than 5 are a first look",
    "steps": "optimiser steps of every training, whatever the count",
    "evaluate_every": "steps between two points of a learning curve (whole validation cases)",
    "training": "subsets are drawn from these",
    "validation": "for the learning curves",
    "test": "for the final figures; an encoder that has seen any of these is refused",
    "tolerance_mm": "within which two surfaces count as the same in the normalised surface Dice",
    "mirroring": "test-time mirroring, as nnU-Net's prediction does; up to 8 times slower",
    "keep_weights": "keep checkpoint_final.pth of every training",
}


def write_commented(study: StudyConfig, path: Path) -> None:
    """Write a study file with a comment above each entry that needs one."""
    content = study.model_dump(exclude_none=True)
    lines = [f"# A study of nnssl: {len(study.inits)} initialisations. Change what you like; then: nnssl_study run"]
    for key, value in content.items():
        lines += [f"# {line}" for line in COMMENTS.get(key, "").splitlines()]
        flow = None if isinstance(value, dict) else True
        lines.append(
            yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, width=116, allow_unicode=True)
            .strip()
            .removeprefix("{")
            .removesuffix("}")
            if flow
            else yaml.safe_dump({key: value}, sort_keys=False, width=116, allow_unicode=True).strip()
        )
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
