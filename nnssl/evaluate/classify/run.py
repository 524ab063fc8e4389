"""One classification: train on some images, answer others; and cross-validation by patient around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nnssl.evaluate.classify import finetune, frozen
from nnssl.evaluate.classify.curve import Follow, Point
from nnssl.evaluate.classify.data import Data
from nnssl.evaluate.classify.model import Model, features
from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.recipe import Recipe
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.features import Extractor


def fit(
    train: Data,
    validation: Data | None,
    extractor: Extractor,
    recipe: Recipe,
    settings: ClassifySettings,
    target: str = "",
    rows: np.ndarray | None = None,
    follow: Follow | None = None,
) -> tuple[Model, list[Point]]:
    """Train a classifier.

    Args:
        train: images.
        validation: other images for the learning curve and the choice of weights of a fine-tuning; models on frozen
            features are chosen by cross-validation within `train`.
        extractor: the encoder, freshly made; fine-tuning changes it.
        recipe: how the images were read.
        settings: how.
        target: name of what is learnt.
        rows: (N, features) of `train` where they are known, see `frozen_features`.
        follow: of a fine-tuning, see `Follow`.

    Returns:
        The classifier, and the learning curve of a fine-tuning.
    """
    known = train.known
    network = _network(extractor, settings, len(known) if train.kind == "classes" else 1)
    arrays, points = None, list[Point]()
    if settings.method == "finetune":
        extractor.encoder.requires_grad_(True)
        points = finetune.train(network, train, validation, known, recipe.geometry, settings, extractor.device, follow)
    else:
        rows = frozen_features(train, extractor, settings) if rows is None else rows
        arrays = frozen.fit(settings.method, train.kind, rows, train.values, train.groups, settings.seed)
    origin = {**extractor.origin, "trained_images": len(train.names), "trained_patients": len(set(train.groups))}
    return Model(recipe, settings, train.kind, target, known, network, arrays, origin), points


def _network(extractor: Extractor, settings: ClassifySettings, outputs: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Classifier(extractor.encoder, extractor.levels, settings.pooling, outputs)


def frozen_features(data: Data, extractor: Extractor, settings: ClassifySettings) -> np.ndarray:
    """(N, features) of the untouched encoder: the same in every fold."""
    return features(_network(extractor, settings, 1).to(extractor.device), data.images, extractor.device)


def cross_validate(
    data: Data,
    make_extractor: Callable[[], Extractor],
    recipe: Recipe,
    settings: ClassifySettings,
    folds: int,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Out-of-fold answers to every image, by patient. Nothing of a fold is seen in its training, no value and no image.

    Args:
        data: all images.
        make_extractor: gives a fresh encoder; called once per fold.
        recipe: how the images were read.
        settings: how.
        folds: number of parts.
        rows: (N, features) for a model on frozen features where they are known, see `frozen_features`.

    Returns:
        (N, classes) probabilities in the order of `data.known`, or (N,) quantities.
    """
    from nnssl.evaluate.probe.answers import outer_splits

    known = data.known
    answers = np.zeros((len(data.names), len(known)) if data.kind == "classes" else len(data.names))
    if settings.method != "finetune" and rows is None:
        rows = frozen_features(data, make_extractor(), settings)
    for train, test in outer_splits(data.values, data.groups, data.kind, settings.seed, folds):
        part = data.part(train)
        if rows is not None:
            arrays = frozen.fit(settings.method, data.kind, rows[train], part.values, part.groups, settings.seed)
            found = frozen.answers(arrays, rows[test])
        else:
            extractor = make_extractor()
            model, _ = fit(part, None, extractor, recipe, settings)
            found = model.answers(data.part(test).images, extractor.device)
        if data.kind == "classes":
            answers[np.ix_(test, np.searchsorted(known, part.known))] = found
        else:
            answers[test] = found
    return answers
