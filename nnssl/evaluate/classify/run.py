"""One classification: train on some images, answer others; and cross-validation by patient around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnssl.evaluate.classify import finetune, frozen
from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.features import Extractor
from nnssl.evaluate.labels import Kind


@dataclass(frozen=True)
class Data:
    """Images with their target.

    Attributes:
        names: of the images.
        images: (N, S, C, *spatial); S slices of a case for 2D encoders, else 1.
        values: texts for classes, floats for a quantity.
        groups: patient of each.
        kind: of the target.
    """

    names: tuple[str, ...]
    images: torch.Tensor
    values: np.ndarray
    groups: tuple[str, ...]
    kind: Kind

    @property
    def known(self) -> np.ndarray:
        """All classes in order; for a quantity its mean and standard deviation."""
        if self.kind == "classes":
            return np.unique(self.values)
        return np.array([self.values.mean(), max(float(self.values.std()), 1e-12)])

    def part(self, rows: Sequence[int] | np.ndarray) -> Data:
        """Some of the images."""
        index = np.asarray(rows)
        return Data(
            tuple(self.names[i] for i in index),
            self.images[torch.as_tensor(index)],
            self.values[index],
            tuple(self.groups[i] for i in index),
            self.kind,
        )


def run_classification(
    train: Data, test: Data, extractor: Extractor, settings: ClassifySettings
) -> tuple[np.ndarray, Classifier | None]:
    """Train on one part and answer the other.

    Nothing of the test part is seen: neither its values nor, for scaling, its images.

    Args:
        train, test: parts.
        extractor: the encoder, freshly made; fine-tuning changes it.
        settings: how.

    Returns:
        (N, classes) probabilities in the order of the training part's classes, or (N,) quantities; and the network, if one
        was trained.
    """
    known = train.known
    if settings.method == "finetune":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            outputs = len(known) if train.kind == "classes" else 1
            network = Classifier(extractor.encoder.requires_grad_(True), extractor.levels, settings.pooling, outputs)
        finetune.train(network, train.images, train.values, train.kind, known, settings, extractor.device)
        return finetune.answers(network, test.images, train.kind, known, extractor.device), network
    a, b = (frozen_features(part.images, extractor, settings) for part in (train, test))
    found = frozen.fit_answers(settings.method, train.kind, a, train.values, train.groups, b, known, settings.seed)
    return found, None


@torch.no_grad()
def frozen_features(
    images: torch.Tensor, extractor: Extractor, settings: ClassifySettings, batch: int = 16
) -> np.ndarray:
    """(N, features) of the untouched encoder."""
    network = Classifier(extractor.encoder, extractor.levels, settings.pooling, 1).eval().to(extractor.device)
    return torch.cat([network.features(x.to(extractor.device)).cpu() for x in images.split(batch)]).numpy()


def cross_validate(data: Data, make_extractor: Any, settings: ClassifySettings, folds: int) -> np.ndarray:
    """Out-of-fold answers to every image, by patient.

    Args:
        data: all images.
        make_extractor: () -> a fresh encoder; called once per fold.
        settings: how.
        folds: number of parts.

    Returns:
        (N, classes) probabilities in the order of `data.known`, or (N,) quantities.
    """
    from nnssl.evaluate.probe.answers import outer_splits

    known = data.known
    answers = np.zeros((len(data.names), len(known)) if data.kind == "classes" else len(data.names))
    for train, test in outer_splits(data.values, data.groups, data.kind, settings.seed, folds):
        part = data.part(train)
        found, _ = run_classification(part, data.part(test), make_extractor(), settings)
        if data.kind == "classes":
            answers[np.ix_(test, np.searchsorted(known, part.known))] = found
        else:
            answers[test] = found
    return answers
