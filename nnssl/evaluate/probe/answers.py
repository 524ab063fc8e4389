"""Out-of-fold answers of a linear model on features: splits by group, nothing of a test part is ever seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from nnssl.errors import NnsslError
from nnssl.evaluate.labels import Kind

FOLDS, INNER_FOLDS = 5, 3
STRENGTHS = tuple(float(s) for s in np.logspace(-4, 2, 5))
"""Inverse penalties of the logistic regression."""
RIDGES = tuple(float(s) for s in np.logspace(-4, 4, 7))
"""Penalties of the ridge per standardised feature; the strongest answers the mean, for features that say nothing."""


def outer_splits(
    values: np.ndarray, groups: Sequence[str], kind: Kind, seed: int, folds: int = FOLDS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds by group; stratified for classes.

    Raises:
        NnsslError: a class has fewer groups than folds, or there are too few groups.
    """
    names = np.asarray(groups)
    if len(np.unique(names)) < 2 * folds:
        raise NnsslError(
            f"{len(np.unique(names))} patients are too few for {folds} folds: at least {2 * folds} are needed"
        )
    if kind == "classes":
        for value in np.unique(values):
            count = len(np.unique(names[values == value]))
            if count < folds:
                raise NnsslError(
                    f"class '{value}' has {count} patients, fewer than the {folds} folds: merge or leave it out"
                )
        splitter: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(np.zeros(len(values)), values, names))
    order = np.random.default_rng(seed).permutation(np.unique(names))
    shuffled = {name: i for i, name in enumerate(order)}
    return list(GroupKFold(folds).split(np.zeros(len(values)), groups=[shuffled[n] for n in names]))


def model(kind: Kind, features: int) -> Pipeline:
    """Standardised features into a penalised linear model; the penalty is to be set."""
    linear: Any = LogisticRegression(max_iter=500, tol=1e-3, class_weight="balanced") if kind == "classes" else Ridge()
    return make_pipeline(StandardScaler(), linear)


def penalties(kind: Kind, features: int) -> dict[str, list[float]]:
    """What the inner cross-validation chooses from."""
    if kind == "classes":
        return {"logisticregression__C": list(STRENGTHS)}
    return {"ridge__alpha": [features * r for r in RIDGES]}


def inner_splits(
    values: np.ndarray, groups: Sequence[str], kind: Kind, folds: int = INNER_FOLDS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds by group for the choice of a penalty: as many as the rarest class has groups, at most `folds`.

    A fold whose training part lacks a class is left out: a class of two patients may fall into one fold. Empty if
    nothing can be chosen.
    """
    names = np.asarray(groups)
    rarest = min(len(np.unique(names[values == v])) for v in np.unique(values)) if kind == "classes" else None
    folds = min(folds, len(np.unique(names)) if rarest is None else rarest)
    if folds < 2:
        return []
    inner: Any = StratifiedGroupKFold(folds) if kind == "classes" else GroupKFold(folds)
    found = list(inner.split(np.zeros(len(values)), values, names))
    known = len(np.unique(values))
    return [(a, b) for a, b in found if len(b) and (kind != "classes" or len(np.unique(values[a])) == known)]


def out_of_fold(x: np.ndarray, values: np.ndarray, groups: Sequence[str], kind: Kind, seed: int) -> np.ndarray:
    """Answers to every row by a model that has seen none of its group.

    Args:
        x: (rows, features).
        values: target.
        groups: patient of each row.
        kind: of the target.
        seed: of the folds.

    Returns:
        (rows, classes) probabilities in the order of `np.unique(values)`, or (rows,) predicted quantities.
    """
    names = np.asarray(groups)
    known = np.unique(values)
    answers = np.zeros((len(values), len(known)) if kind == "classes" else len(values))
    for train, test in outer_splits(values, groups, kind, seed):
        inner = inner_splits(values[train], list(names[train]), kind)
        if not inner:
            raise NnsslError("a class has too few patients for an inner cross-validation: merge or leave it out")
        scoring = "balanced_accuracy" if kind == "classes" else "neg_mean_squared_error"
        search = GridSearchCV(model(kind, x.shape[1]), penalties(kind, x.shape[1]), cv=inner, scoring=scoring)
        search.fit(x[train], values[train])
        if kind == "classes":
            columns = np.searchsorted(known, search.classes_)
            answers[np.ix_(test, columns)] = search.predict_proba(x[test])
        else:
            answers[test] = search.predict(x[test])
    return answers
