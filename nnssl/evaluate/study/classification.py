"""One cell of a classification study: a classifier trained on the draw, then the test images."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnssl.data.folders import nnunet_folder, read_dataset_json
from nnssl.errors import NnsslError
from nnssl.evaluate.classify.curve import write_curve
from nnssl.evaluate.classify.data import Cases, Source, check_classes, known_plans
from nnssl.evaluate.classify.model import write_model
from nnssl.evaluate.classify.npz import NpzImages
from nnssl.evaluate.classify.run import fit
from nnssl.evaluate.classify.scores import all_scores, write_predictions
from nnssl.evaluate.classify.settings import ClassifySettings, TrainingSettings
from nnssl.evaluate.features import RANDOM, Extractor, make_extractor
from nnssl.evaluate.strata import strata_of
from nnssl.evaluate.study.cells import Cell, write_record
from nnssl.evaluate.study.draws import draw, stratified_patients
from nnssl.evaluate.study.spec import Classification, StudyConfig
from nnssl.files import write_json
from nnssl.networks import total_stride

log = logging.getLogger(__name__)

MEASURED_STEPS = 4


def task_of(study: StudyConfig) -> Classification:
    """The classify block of a study that has one."""
    if study.classify is None:
        raise NnsslError(f"study {study.name} is no classification")
    return study.classify


def source_of(study: StudyConfig) -> Source:
    """The labelled images of a study; what was read of them stays with this process."""
    task = task_of(study)
    return open_source(study.dataset, study.plans, study.configuration, task)


@lru_cache(maxsize=1)
def open_source(dataset: str, plans: str, configuration: str, task: Classification) -> Source:
    """The images that a classify block names.

    Raises:
        NnsslError: the table or the file does not fit the dataset.
    """
    if task.npz is not None:
        folder = nnunet_folder("nnUNet_preprocessed") / dataset
        described = read_dataset_json(folder / "dataset.json")
        return NpzImages(Path(task.npz), known_plans(dataset, plans, configuration), configuration, described)
    return Cases(dataset, plans, configuration, Path(str(task.labels)), str(task.target), task.group)


def classification_draws(study: StudyConfig) -> dict[str, dict[str, list[str]]]:
    """Seed -> count -> training images, nested, by patient, classes in their shares.

    Raises:
        NnsslError: an image has no value, a count is too large, or a draw lacks a class of the test images.
    """
    known = source_of(study).known
    value_of = dict(zip(known.names, known.values))
    for name in (*study.training, *study.validation, *study.test):
        if name not in value_of:
            raise NnsslError(f"{name} of the study has no value: take it out, or complete the table")
    groups, strata = dict(zip(known.names, known.groups)), dict(zip(known.names, strata_of(known.values, known.kind)))
    found: dict[str, dict[str, list[str]]] = {}
    for seed in study.seeds:
        patients = stratified_patients(study.training, groups, strata, seed)
        found[str(seed)] = {str(count): draw(patients, count, study.unit) for count in study.counts}
        for count, names in found[str(seed)].items():
            values = [value_of[n] for n in names]
            if known.kind == "classes":
                try:
                    check_classes(values, [value_of[n] for n in (*study.validation, *study.test)])
                except NnsslError as error:
                    raise NnsslError(f"count {count}, seed {seed}: {error}") from None
            elif len(set(values)) < 2:
                raise NnsslError(f"count {count}, seed {seed}: one value only; draw more images")
    return found


def run_classification(
    study: StudyConfig, cell: Cell, folder: Path, drawn: Sequence[str], device: torch.device
) -> None:
    """Train and test one cell; its files are complete when this returns.

    Args:
        study: the study.
        cell: which training.
        folder: of the cell.
        drawn: training images.
        device: to train on.
    """
    settings, extractor = _begin(study, cell, device)
    source = source_of(study)
    recipe = source.recipe(total_stride(extractor.encoder))
    write_json({} if extractor.report is None else extractor.report.as_dict(), folder / "load_report.json")
    train, test = source.read(drawn, recipe), source.read(study.test, recipe)
    looked = source.read(study.validation, recipe) if study.validation and study.stepwise else None
    began = time.monotonic()
    target = task_of(study).target or "npz"
    # the display of the whole study reads how far this curve has come
    curve = partial(write_curve, path=folder / "curve.csv")
    model, _ = fit(train, looked, extractor, recipe, settings, target, follow=curve)
    write_record(folder, train_seconds=round(time.monotonic() - began, 1), steps=study.steps)
    answers = model.answers(test.images, device)
    write_predictions(folder / "predictions.csv", test.names, answers, test.kind, model.known, test.groups, test.values)
    scores = all_scores(test.values, answers, test.kind, model.known)
    write_json({k: v if np.isfinite(v) else None for k, v in scores.items()}, folder / "scores.json")
    if study.keep_weights:
        write_model(model, folder / "model.pth")


def _begin(study: StudyConfig, cell: Cell, device: torch.device) -> tuple[ClassifySettings, Extractor]:
    """Settings and encoder of a cell."""
    init, task = study.inits[cell.init], task_of(study)
    shared: dict[str, Any] = task.model_dump(include=set(TrainingSettings.model_fields))
    if init.lr is not None:
        shared["lr"] = init.lr
    source = init.weights_of(cell.seed) or RANDOM
    if source == RANDOM:  # a control with fewer steps of learning would be no control
        shared["freeze_epochs"] = 0
    settings = ClassifySettings(
        **shared, init=source, steps=study.steps, evaluate_every=study.evaluate_every, seed=cell.seed
    )
    options: Any = {"levels": task.levels, "pooling": task.pooling, "seed": cell.seed, "device": device}
    return settings, make_extractor(source, study.dataset, study.plans, study.configuration, **options)


def seconds_of_classification(study: StudyConfig, drawn: Sequence[str], device: torch.device) -> float:
    """Seconds of one cell, measured on the control: some steps, or the whole fit of a model on frozen features.

    Args:
        study: the study.
        drawn: training images of the largest count.
        device: to train on.
    """
    settings, extractor = _begin(study, Cell(study.control, len(drawn), study.seeds[0]), device)
    source = source_of(study)
    recipe = source.recipe(total_stride(extractor.encoder))
    train, test = source.read(drawn, recipe), source.read(study.test, recipe)
    tried = settings.model_copy(update={"steps": MEASURED_STEPS, "freeze_epochs": 0, "select": "last"})
    began = time.monotonic()
    model, _ = fit(train, None, extractor, recipe, tried)
    fitted = time.monotonic() - began
    began = time.monotonic()
    model.answers(test.images, device)
    tested = time.monotonic() - began
    if not study.stepwise:
        return fitted + tested
    looks = (study.steps // study.evaluate_every + 1) * len(study.validation) / len(study.test)
    return fitted / MEASURED_STEPS * study.steps + tested * (1 + looks)


def groups_of(study: StudyConfig) -> Mapping[str, str]:
    """Image -> patient."""
    known = source_of(study).known
    return dict(zip(known.names, known.groups))
