"""Scores of out-of-fold answers, with intervals over patients, a gain over random encoders, and chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score

from nnssl.evaluate.classify import resampled
from nnssl.evaluate.labels import Kind

RESAMPLES = 500
FEWEST_MOVED = 0.5
"""Share of the rows that a shuffle must be able to move; with fewer, what is called chance is the target itself."""
METRICS: dict[str, tuple[str, ...]] = {"classes": ("balanced_accuracy", "auc"), "regression": ("r2", "mae")}
"""The first one is the main one."""


def score(metric: str, values: np.ndarray, answers: np.ndarray, known: np.ndarray) -> float:
    """One metric of answers; NaN where it is not defined, as for one class only."""
    if metric == "r2":
        return float(r2_score(values, answers)) if len(values) > 1 and np.ptp(values) > 0 else float("nan")
    if metric == "mae":
        return float(mean_absolute_error(values, answers))
    if len(np.unique(values)) < 2:
        return float("nan")
    if metric == "balanced_accuracy":
        return float(balanced_accuracy_score(values, known[answers.argmax(1)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(known) == 2:
            return float(roc_auc_score(values == known[1], answers[:, 1]))
        if len(np.unique(values)) < len(known):
            return float("nan")
        share = answers / np.clip(answers.sum(1, keepdims=True), 1e-12, None)
        return float(roc_auc_score(values, share, multi_class="ovr", average="macro", labels=known))


@dataclass(frozen=True)
class Scored:
    """A score with its interval, and those of random encoders and the difference.

    Attributes:
        value, low, high: mean over repeats, 95 % bootstrap interval of it over groups.
        random, random_sd: mean and standard deviation over random encoders.
        gain, gain_low, gain_high: score less the random encoders' mean; its interval is over groups and random encoders. For
            an error (mae) negative is better.
    """

    value: float
    low: float
    high: float
    random: float
    random_sd: float
    gain: float
    gain_low: float
    gain_high: float


def scored(
    metric: str,
    values: np.ndarray,
    answers: Sequence[np.ndarray],
    random: Sequence[Sequence[np.ndarray]],
    groups: Sequence[str],
    seed: int = 0,
) -> Scored:
    """Score answers beside those of random encoders.

    Args:
        metric: one of `METRICS`.
        values: target of each row.
        answers: out-of-fold answers, one array per repeat.
        random: the same for each random encoder.
        groups: patient of each row; these are resampled.
        seed: of the resamples.
    """
    known, weights = np.unique(values), resampled.resamples(groups, RESAMPLES, seed)
    own = _drawn(metric, values, answers, known, weights)
    others = np.stack([_drawn(metric, values, r, known, weights) for r in random])
    # one of the random encoders per resample, not their mean: an encoder must beat what another draw of weights would give
    one = np.random.default_rng([seed, 1]).integers(0, len(random), RESAMPLES)
    value = _mean(metric, values, answers, known)
    of_random = [_mean(metric, values, r, known) for r in random]
    low, high = np.nanquantile(own, [0.025, 0.975])
    gain_low, gain_high = np.nanquantile(own - others[one, np.arange(RESAMPLES)], [0.025, 0.975])
    base = float(np.mean(of_random))
    sd = float(np.std(of_random, ddof=1)) if len(of_random) > 1 else float("nan")
    return Scored(value, float(low), float(high), base, sd, value - base, float(gain_low), float(gain_high))


def _mean(metric: str, values: np.ndarray, answers: Sequence[np.ndarray], known: np.ndarray) -> float:
    return float(np.mean([score(metric, values, a, known) for a in answers]))


def _drawn(
    metric: str, values: np.ndarray, answers: Sequence[np.ndarray], known: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(resamples,) mean over repeats of what `score` says of the resampled rows."""
    kind: Kind = "classes" if metric in METRICS["classes"] else "regression"
    unit = 1.0
    if kind == "regression":  # sums of squares of large or tiny values would lose their digits
        shift, unit = values.mean(), float(values.std()) or 1.0
        values, answers = (values - shift) / unit, [(a - shift) / unit for a in answers]
    found = [resampled.scores(values, a, kind, known, weights)[metric] for a in answers]
    drawn = np.mean(found, axis=0) * (unit if metric == "mae" else 1)
    if kind == "classes":  # as in `score`
        shown = np.stack([weights[:, values == c].sum(1) > 0 for c in known], 1).sum(1)
        drawn[shown < (2 if metric == "balanced_accuracy" else len(known))] = np.nan
    return np.asarray(drawn)


def shuffled(values: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The target given to other patients.

    Patients with one value swap it, whatever the number of their rows. If any patient's rows differ, whole patients swap
    with patients of as many rows, so that their inner order stays; what has no other of its size stays where it is.
    """
    result = values.copy()
    for members in _exchangeable(values, groups):
        order = rng.permutation(len(members))
        for rows, other in zip(members, order):
            given = values[members[other]]
            result[rows] = given if len(given) == len(rows) else given[0]
    return result


def can_be_shuffled(values: np.ndarray, groups: Sequence[str]) -> bool:
    """Whether `shuffled` can give another value to enough rows for it to be chance."""
    sets = _exchangeable(values, groups)
    moving = [members for members in sets if len({tuple(values[rows]) for rows in members}) > 1]
    return sum(len(rows) for members in moving for rows in members) >= FEWEST_MOVED * len(values)


def _exchangeable(values: np.ndarray, groups: Sequence[str]) -> list[list[np.ndarray]]:
    """Sets of groups, each as its rows, that may swap their values."""
    names = np.asarray(groups)
    rows_of = [np.flatnonzero(names == name) for name in np.unique(names)]
    if all(_one_value(values, rows) for rows in rows_of):
        return [rows_of]
    by_size: dict[int, list[np.ndarray]] = {}
    for rows in rows_of:
        by_size.setdefault(len(rows), []).append(rows)
    return list(by_size.values())


def _one_value(values: np.ndarray, rows: np.ndarray) -> bool:
    return bool(np.all(values[rows] == values[rows[0]]))
