"""Simple models on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from nnssl.errors import NnsslError
from nnssl.evaluate.labels import Kind

INNER_FOLDS = 3


def fit_answers(
    method: str,
    kind: Kind,
    train: np.ndarray,
    values: np.ndarray,
    groups: Sequence[str],
    test: np.ndarray,
    known: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Fit a model on frozen features, its strength chosen within the training part by patient, and answer the test rows.

    Args:
        method: linear (logistic regression or ridge), mlp (one hidden layer of 128), or knn (cosine, weighted by distance).
        kind: of the target.
        train, test: (rows, features).
        values, groups: of the training rows.
        known: all classes in order.
        seed: of the mlp.

    Returns:
        (rows, classes) probabilities, or (rows,) quantities.
    """
    model, grid = _model(method, kind, seed, len(values))
    splits = min(INNER_FOLDS, _smallest(values, groups, kind))
    if splits > 1:
        inner: Any = StratifiedGroupKFold(splits) if kind == "classes" else GroupKFold(splits)
        scoring = "balanced_accuracy" if kind == "classes" else "neg_mean_squared_error"
        model = GridSearchCV(model, grid, cv=inner, scoring=scoring)
        model.fit(train, values, groups=np.asarray(groups))
    else:  # too few patients of a class to choose anything
        model.fit(train, values)
    if kind == "regression":
        return np.asarray(model.predict(test))
    found = np.zeros((len(test), len(known)))
    found[:, np.searchsorted(known, model.classes_)] = model.predict_proba(test)
    return found


def _smallest(values: np.ndarray, groups: Sequence[str], kind: Kind) -> int:
    names = np.asarray(groups)
    if kind == "regression":
        return len(np.unique(names))
    return min(len(np.unique(names[values == v])) for v in np.unique(values))


def _model(method: str, kind: Kind, seed: int, rows: int) -> tuple[Any, dict[str, list[Any]]]:
    classes = kind == "classes"
    if method == "linear":
        linear: Any = LogisticRegression(max_iter=1000, class_weight="balanced") if classes else Ridge()
        name, key = ("logisticregression", "C") if classes else ("ridge", "alpha")
        return make_pipeline(StandardScaler(), linear), {f"{name}__{key}": [1e-3, 1e-2, 1e-1, 1.0, 10.0]}
    if method == "mlp":
        cls: Any = MLPClassifier if classes else MLPRegressor
        mlp = cls((128,), max_iter=300, early_stopping=False, random_state=seed)
        return make_pipeline(StandardScaler(), mlp), {f"{cls.__name__.lower()}__alpha": [1e-3, 1e-1, 10.0]}
    if method == "knn":
        neighbours: Any = KNeighborsClassifier if classes else KNeighborsRegressor
        counts = sorted({k for k in (1, 5, 15, 50, 200) if k < rows / 2} or {1})
        knn = neighbours(weights="distance")
        return make_pipeline(StandardScaler(), Normalizer(), knn), {
            f"{neighbours.__name__.lower()}__n_neighbors": counts
        }
    raise NnsslError(f"-m {method}: there are finetune, linear, mlp and knn")
