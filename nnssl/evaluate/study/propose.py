"""A study file to begin with: cases chosen, defaults written out, every entry explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnssl.data.folders import check_configuration, nnunet_folder, read_plans, resolve_dataset
from nnssl.data.pool import read_splits
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError, shortened
from nnssl.evaluate.statistics import FEW_DRAWS
from nnssl.evaluate.study.run_cell import known_fingerprint
from nnssl.evaluate.study.spec import StudyConfig, Unit, parse_study
from nnssl.files import write_json
from nnssl.trainers.finetune_plan import absolute, training_cases
from nnssl.trainers.recipes import first_width, recipe
from nnssl.transfer.reading import read_weights

EVALUATIONS = 20
"""Points of a learning curve, about."""
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
    content = read_plans(full, plans)
    check_configuration(content, configuration, plans, full)
    notes = need_splits(full, lambda: training_cases(full, plans, configuration, "all"))
    training = training_cases(full, plans, configuration, fold)
    held_out = sorted(str(c) for c in (read_splits(nnunet_folder("nnUNet_preprocessed") / full) or [])[fold]["val"])
    validation, test = share_out(held_out, _subjects(full, held_out), test_cases)
    width = first_width(content, configuration)
    rows: dict[str, dict[str, Any]] = {"scratch": {"schedule": "scratch", **recipe(steps, False, width)}}
    if stock:
        rows["nnunet"] = {"schedule": "nnunet"}
    for label, file in inits:
        read_weights(file)  # now, and not when the study runs
        if label in rows:
            raise NnsslError(f"--init {label}=...: the name is taken, give another one")
        rows[label] = {"init": portable(file), "schedule": "warmup", **recipe(steps, True, width)}
    content = {
        "name": name,
        "dataset": full,
        "plans": plans,
        "configuration": configuration,
        "control": "scratch",
        "inits": rows,
        "unit": unit,
        **grid_sizes(counts, seeds, steps),
        "training": training,
        "validation": validation,
        "test": test,
    }
    study = parse_study(content, "the proposed study")
    return finished(study, known_fingerprint(study).get("nnssl", {}).get("cases", {}), notes)


def grid_sizes(counts: Sequence[int], seeds: int, steps: int) -> dict[str, Any]:
    """Counts, seeds and steps as they stand in a study file; steps are cut to a multiple of the evaluations'."""
    every = max(1, steps // EVALUATIONS)
    return {
        "counts": sorted(set(counts)),
        "seeds": list(range(seeds)),
        "steps": steps // every * every,
        "evaluate_every": every,
    }


def portable(file: str) -> str:
    """A source of weights as it stands in a study file: what lies in `nnUNet_results` is named so on every machine."""
    found = absolute(file)
    results = nnunet_folder("nnUNet_results").resolve()
    return f"$nnUNet_results/{Path(found).relative_to(results)}" if Path(found).is_relative_to(results) else found


def finished(study: StudyConfig, digests: Mapping[str, str], notes: list[str]) -> tuple[StudyConfig, list[str]]:
    """A study without twins of held-out cases in training, and what a user should know."""
    dropped, study = _without_twins(study, digests)
    if len(study.seeds) < FEW_DRAWS:
        notes.append(f"{len(study.seeds)} draw(s) are a first look; conclusions want five or more (--seeds 5)")
    return study, notes + dropped


def _subjects(dataset: str, cases: Sequence[str]) -> dict[str, str]:
    return read_subjects(nnunet_folder("nnUNet_raw") / dataset, cases)


def need_splits(
    dataset: str, list_cases: Callable[[], Sequence[str]], subjects: Mapping[str, str] | None = None
) -> list[str]:
    """nnU-Net makes its splits when it first trains, and by case: here they are needed now, and by patient.

    Args:
        dataset: folder name.
        list_cases: () -> the cases to split, called where there is no split.
        subjects: case -> patient; default: what the raw dataset or the names tell.

    Returns:
        What a user should know.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    if read_splits(folder):
        return []
    cases = list_cases()
    subjects = _subjects(dataset, cases) if subjects is None else subjects
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


def share_out(
    held_out: Sequence[str], subjects: Mapping[str, str], test_cases: int | None
) -> tuple[list[str], list[str]]:
    """Validation and test cases, whole patients; the same for every study of that fold and number."""
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


def _without_twins(study: StudyConfig, digests: Mapping[str, str]) -> tuple[list[str], StudyConfig]:
    """Take cases out of a part whose voxels are under another name in a part that is held out from it."""
    said = []
    for part, held_out in (("validation", ("test",)), ("training", ("validation", "test"))):
        held = {digests[c] for other in held_out for c in getattr(study, other) if c in digests}
        cases = getattr(study, part)
        twins = [c for c in cases if digests.get(c) in held]
        if twins:
            said.append(
                f"left out of {part}, because their voxels are in {' or '.join(held_out)} too: {shortened(twins, 10)}"
            )
            study = study.model_copy(update={part: [c for c in cases if c not in twins]})
    return said, study
