"""Simple models on frozen features, chosen by inner cross-validation and kept as plain arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from nnssl.errors import NnsslError
from nnssl.evaluate.labels import Kind
from nnssl.evaluate.probe.answers import inner_splits, penalties

TEMPERATURE = 0.07
"""Of the vote of neighbours, as in Wu et al. 2018 (CVPR) and DINO."""
Arrays = dict[str, Any]


def fit(method: str, kind: Kind, features: np.ndarray, values: np.ndarray, groups: Sequence[str], seed: int) -> Arrays:
    """Fit a model, its strength chosen within the training part by patient.

    Args:
        method: linear (logistic regression or ridge), mlp (one hidden layer of 128), or knn (cosine; neighbours vote with
            weight exp(similarity / 0.07); at most 200 as in Chattopadhyay et al. 2023).
        kind: of the target.
        features: (rows, features).
        values, groups: of the rows.
        seed: of the mlp.

    Returns:
        Arrays and plain values that `answers` understands.
    """
    features = np.asarray(features, np.float64)
    inner = inner_splits(values, groups, kind)
    rows = min((len(train) for train, _ in inner), default=len(features))
    model, grid = _model(method, kind, seed, (rows, features.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the weakest penalty, which is then not chosen
        if inner:
            scoring = "balanced_accuracy" if kind == "classes" else "neg_mean_squared_error"
            search = GridSearchCV(model, grid, cv=inner, scoring=scoring)
            model = search.fit(features, values).best_estimator_
        else:  # too few patients of a class to choose anything
            model.fit(features, values)
    scaler, last = model.named_steps["scale"], model.named_steps["model"]
    known = np.unique(values) if kind == "classes" else None
    arrays: Arrays = {"method": method, "kind": kind, "mean": scaler.mean_, "scale": scaler.scale_}
    if method == "knn":
        number = values if known is None else np.searchsorted(known, values)
        rows = scaler.transform(features)
        return {**arrays, "rows": rows, "values": number, "neighbours": last.n_neighbors, "classes": _count(known)}
    weights = [last.coef_.T] if method == "linear" else list(last.coefs_)
    biases = [np.atleast_1d(last.intercept_)] if method == "linear" else list(last.intercepts_)
    return {**arrays, "weights": [w.reshape(len(w), -1) for w in weights], "biases": biases}


def answers(arrays: Mapping[str, Any], features: np.ndarray) -> np.ndarray:
    """(rows, classes) probabilities in the order of the classes, or (rows,) quantities."""
    x = (features - arrays["mean"]) / arrays["scale"]
    if arrays["method"] == "knn":
        return _vote(arrays, x)
    for i, (weight, bias) in enumerate(zip(arrays["weights"], arrays["biases"])):
        x = (np.maximum(x, 0) if i else x) @ weight + bias
    if arrays["kind"] == "regression":
        return np.asarray(x[:, 0])
    if x.shape[1] == 1:  # two classes have one output
        x = np.hstack([np.zeros_like(x), x])
    shares = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _vote(arrays: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    cls = KNeighborsClassifier if arrays["kind"] == "classes" else KNeighborsRegressor
    model = cls(int(arrays["neighbours"]), metric="cosine", weights=_weights).fit(arrays["rows"], arrays["values"])
    if arrays["kind"] == "regression":
        return np.asarray(model.predict(x))
    found = np.zeros((len(x), int(arrays["classes"])))
    found[:, model.classes_] = model.predict_proba(x)
    return found


def _weights(distance: np.ndarray) -> np.ndarray:
    """Weight of each neighbour in a vote from its cosine distance; relative to the nearest, so that none vanish."""
    return np.exp(-(distance - distance.min(-1, keepdims=True)) / TEMPERATURE)


def _count(known: np.ndarray | None) -> int:
    return 0 if known is None else len(known)


def _model(method: str, kind: Kind, seed: int, shape: tuple[int, ...]) -> tuple[Pipeline, dict[str, list[Any]]]:
    classes = kind == "classes"
    if method == "linear":
        model: Any = LogisticRegression(max_iter=1000, class_weight="balanced") if classes else Ridge()
        (strengths,) = penalties(kind, shape[1]).values()
        grid: dict[str, list[Any]] = {"C" if classes else "alpha": list(strengths)}
        model.set_params(**{name: values[len(values) // 2] for name, values in grid.items()})
    elif method == "mlp":
        model = (MLPClassifier if classes else MLPRegressor)((128,), max_iter=300, random_state=seed)
        grid = {"alpha": [1e-3, 1e-1, 10.0]}
    elif method == "knn":
        model = (KNeighborsClassifier if classes else KNeighborsRegressor)(metric="cosine", weights=_weights)
        grid = {"n_neighbors": sorted({k for k in (1, 5, 15, 50, 200) if k < shape[0]} or {1})}
        model.set_params(n_neighbors=grid["n_neighbors"][len(grid["n_neighbors"]) // 2])
    else:
        raise NnsslError(f"-m {method}: there are finetune, linear, mlp and knn")
    return Pipeline([("scale", StandardScaler()), ("model", model)]), {f"model__{k}": v for k, v in grid.items()}
