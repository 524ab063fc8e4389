"""Scores of out-of-fold answers, with intervals over patients, a gain over random encoders, and chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score

RESAMPLES = 500
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
        value, low, high: mean over repeats, 95 % bootstrap interval over groups.
        random, random_sd: mean and standard deviation over random encoders.
        gain, gain_low, gain_high: score less the random encoders' mean on the same resamples; for an error (mae) negative is
            better.
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
    known = np.unique(values)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(index == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    own, others = [], []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, len(names), len(names))])
        own.append(_mean(metric, values, answers[:1], rows, known))
        others.append(np.mean([_mean(metric, values, r[:1], rows, known) for r in random]))
    everything = np.arange(len(values))
    value = _mean(metric, values, answers, everything, known)
    of_random = [_mean(metric, values, r, everything, known) for r in random]
    low, high = np.nanquantile(own, [0.025, 0.975])
    gain_low, gain_high = np.nanquantile(np.array(own) - np.array(others), [0.025, 0.975])
    base = float(np.mean(of_random))
    sd = float(np.std(of_random, ddof=1)) if len(of_random) > 1 else float("nan")
    return Scored(value, float(low), float(high), base, sd, value - base, float(gain_low), float(gain_high))


def _mean(metric: str, values: np.ndarray, answers: Sequence[np.ndarray], rows: np.ndarray, known: np.ndarray) -> float:
    return float(np.mean([score(metric, values[rows], a[rows], known) for a in answers]))


def shuffled(values: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The target given to other patients: whole groups swap with groups of as many rows, so that their inner order stays."""
    names = np.asarray(groups)
    by_size: dict[int, list[np.ndarray]] = {}
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        by_size.setdefault(len(rows), []).append(rows)
    result = values.copy()
    for members in by_size.values():
        order = rng.permutation(len(members))
        for rows, other in zip(members, order):
            result[rows] = values[members[other]]
    return result
