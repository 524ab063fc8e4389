"""Scores under many resamples of the cases at once: a resample is a vector of how often each case was drawn.

The numbers are those of scikit-learn with `sample_weight`, for thousands of resamples in one go.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from nnssl.evaluate.labels import Kind

Scores = dict[str, np.ndarray]


def resamples(groups: Sequence[str], count: int, seed: int = 0) -> np.ndarray:
    """(count, cases): how often each case is in each bootstrap resample of whole groups."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(names), (count, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
    return times[:, index].astype(float)


def scores(values: np.ndarray, answers: np.ndarray, kind: Kind, known: np.ndarray, weights: np.ndarray) -> Scores:
    """Every score of a set of answers under every resample.

    Args:
        values: (cases,) targets.
        answers: (cases, classes) probabilities in the order of `known`, or (cases,) quantities.
        kind: of the target.
        known: all classes in order.
        weights: (resamples, cases) not negative.

    Returns:
        Name -> (resamples,); class means are unweighted (macro) over the classes that a resample shows; NaN = not defined.
    """
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # means over no class
        return (
            _regression(values, answers, weights) if kind == "regression" else _classes(values, answers, known, weights)
        )


def _regression(values: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> Scores:
    share = weights / weights.sum(1, keepdims=True)
    mean, mean_said = share @ values, share @ answers
    spread = share @ values**2 - mean**2
    spread_said = share @ answers**2 - mean_said**2
    together = share @ (values * answers) - mean * mean_said
    exact = 1e-12 * np.maximum(1.0, mean**2)  # below that a spread is rounding
    return {
        "r2": np.where(spread > exact, 1 - share @ (values - answers) ** 2 / spread, np.nan),
        "mae": share @ np.abs(values - answers),
        "correlation": np.where(
            (spread > exact) & (spread_said > 1e-12), together / np.sqrt(spread * spread_said), np.nan
        ),
    }


def _classes(values: np.ndarray, answers: np.ndarray, known: np.ndarray, weights: np.ndarray) -> Scores:
    said, count = answers.argmax(1), len(known)
    truth = values[:, None] == known[None]
    # (resamples, said): weights of the cases of class t that were called p
    table = np.stack([weights @ (truth[:, [t]] & (said[:, None] == np.arange(count))) for t in range(count)], 1)
    right = np.stack([table[:, c, c] for c in range(count)], 1)
    there, called = table.sum(2), table.sum(1)
    seen = (there > 0) | (called > 0)
    nan = np.full_like(right, np.nan)
    recall = np.where(there > 0, right / there, nan)
    found = {
        "balanced_accuracy": np.nanmean(recall, 1),
        "accuracy": right.sum(1) / weights.sum(1),
        "f1": np.nanmean(np.where(seen, 2 * right / (there + called), nan), 1),
        "precision": np.nanmean(np.where(seen, np.where(called > 0, right / called, 0), nan), 1),
    }
    columns = [1] if count == 2 else list(range(count))
    pairs = [_ranking(truth[:, c], answers[:, c], weights) for c in columns]
    for name, part in (("auc", 0), ("average_precision", 1)):
        found[name] = np.nanmean(np.stack([p[part] for p in pairs], 1), 1)
    return found


def recalls(values: np.ndarray, answers: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(classes,) share of each class's cases that were called so; NaN where there are none."""
    said = known[answers.argmax(1)]
    return np.array([np.mean(said[values == c] == c) if np.any(values == c) else np.nan for c in known])


def _ranking(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision, ties shared; NaN where a resample lacks one of the two sides."""
    order = np.argsort(-score, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    positive = np.add.reduceat(weights[:, order] * truth[order], begins, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~truth[order], begins, axis=1)
    p, n = positive.cumsum(1), negative.cumsum(1)
    both = (p[:, -1] > 0) & (n[:, -1] > 0)
    area = ((p - positive / 2) * negative).sum(1) / (p[:, -1] * n[:, -1])
    precision = np.where(p + n > 0, p / (p + n), 0)
    average = (precision * positive).sum(1) / p[:, -1]
    return np.where(both, area, np.nan), np.where(both, average, np.nan)
