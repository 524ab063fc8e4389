"""A study file for a classification to begin with: images chosen, defaults written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.folders import nnunet_folder, resolve_dataset
from nnssl.data.pool import read_splits
from nnssl.errors import NnsslError
from nnssl.evaluate.classify.data import Source
from nnssl.evaluate.classify.npz import NpzImages
from nnssl.evaluate.classify.settings import Method
from nnssl.evaluate.strata import strata_of, stratified_order
from nnssl.evaluate.study.classification import open_source
from nnssl.evaluate.study.propose import VALIDATION_SHARE, finished, grid_sizes, need_splits, portable, share_out
from nnssl.evaluate.study.spec import Classification, StudyConfig, Unit, parse_study
from nnssl.trainers.finetune_plan import absolute
from nnssl.transfer.reading import read_weights

Parts = tuple[list[str], list[str], list[str]]
"""Training, validation and test images."""


def propose_classification(
    *,
    dataset: str,
    plans: str,
    configuration: str,
    fold: int,
    labels: Path | None,
    target: str | None,
    group: str | None,
    npz: Path | None,
    method: Method,
    inits: Sequence[tuple[str, str]],
    counts: Sequence[int],
    unit: Unit,
    seeds: int,
    steps: int,
    test_cases: int | None,
    name: str,
) -> tuple[StudyConfig, list[str]]:
    """A classification study.

    With a table the fold's held-out patients become validation and test, so that an encoder pretrained with
    `nnssl_pretrain -f FOLD` has seen none of them; with an npz its own parts are taken.

    Returns:
        The study, and what a user should know.

    Raises:
        NnsslError: the table or file does not fit, too few images, or weights that cannot be read.
    """
    full = resolve_dataset(dataset, "nnUNet_preprocessed")
    task = Classification(
        method=method,
        labels=None if labels is None else absolute(str(labels)),
        npz=None if npz is None else absolute(str(npz)),
        target=target,
        group=group,
    )
    source = open_source(full, plans, configuration, task)
    stepwise, notes = method == "finetune", list[str]()
    if isinstance(source, NpzImages):
        parts = _npz_parts(source, test_cases)
    else:
        groups = dict(zip(source.known.names, source.known.groups))
        notes = need_splits(full, lambda: list(groups), groups)
        parts = _fold_parts(full, source, groups, fold, test_cases, stepwise)
    training, validation, test = parts
    control = "scratch" if stepwise else "random"
    rows: dict[str, dict[str, Any]] = {control: {"schedule": "scratch"}}
    for label, file in inits:
        read_weights(file)  # now, and not when the study runs
        if label in rows:
            raise NnsslError(f"--init {label}=...: the name is taken, give another one")
        rows[label] = {"init": portable(file)}
    content = {
        "name": name,
        "task": "classification",
        "classify": task.model_dump(exclude_none=True),
        "dataset": full,
        "plans": plans,
        "configuration": configuration,
        "control": control,
        "inits": rows,
        "unit": unit,
        **grid_sizes(counts, seeds, steps),
        "training": training,
        "validation": validation if stepwise else [],
        "test": test,
    }
    return finished(parse_study(content, "the proposed study"), source.known.digests, notes)


def _npz_parts(source: NpzImages, test_cases: int | None) -> Parts:
    """The file's own parts; fewer test images, and a third as many validation images, if asked for."""
    validation, test = source.names("val"), source.names("test")
    if test_cases is not None:
        test = _some(source, test, test_cases)
        validation = _some(source, validation, max(1, round(test_cases * VALIDATION_SHARE / (1 - VALIDATION_SHARE))))
    return source.names("train"), validation, test


def _some(source: NpzImages, names: list[str], count: int) -> list[str]:
    """So many images, classes in their shares; the same for every study."""
    if count >= len(names):
        return names
    value_of = dict(zip(source.known.names, source.known.values))
    strata = strata_of(np.array([value_of[n] for n in names]), "classes")
    chosen = set(stratified_order(names, strata, 0)[:count])
    return [n for n in names if n in chosen]


def _fold_parts(
    dataset: str, source: Source, groups: Mapping[str, str], fold: int, test_cases: int | None, stepwise: bool
) -> Parts:
    """Patients of the fold's held-out cases for validation and test, all others for training."""
    splits = read_splits(nnunet_folder("nnUNet_preprocessed") / dataset) or []
    if not 0 <= fold < len(splits):
        raise NnsslError(f"fold {fold} does not exist: the split has folds 0 to {len(splits) - 1}")
    outside = {str(c) for c in splits[fold]["val"]}
    held_groups = {g for c, g in groups.items() if c in outside}
    held_out = sorted(c for c in groups if c in outside)
    training = sorted(c for c, g in groups.items() if g not in held_groups)
    if not held_out or not training:
        raise NnsslError(
            f"fold {fold} leaves {len(training)} labelled cases for training and {len(held_out)} for testing"
        )
    if not stepwise and test_cases is None:
        return training, [], held_out
    validation, test = share_out(held_out, groups, test_cases)
    return training, validation, test
