"""Statistics of a study: paired over draws and cases."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 5000
LEVEL = 0.95
FEW_DRAWS = 5
"""Fewer draws than these are a first look."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    table: np.ndarray, groups: Sequence[int] | None = None, seed: int = 0, minus: np.ndarray | None = None
) -> Estimate:
    """Mean of a table of draws x cases with a percentile interval: draws are resampled, and within them patients.

    The cases are the same in every draw, so one resample of them serves all draws: both sources of chance are crossed.

    Args:
        table: (draws, cases) or (draws, cases, labels), NaN where there is no value.
        groups: number of each case's patient, whose cases are drawn together; None = every case is one of its own.
        seed: of the resamples; the same table gives the same interval.
        minus: as `table`, for a paired comparison: in each draw the difference of both means, each over what it has. So a
            case in which one of the two has no value (rightly nothing predicted) does not hide what the other did there.

    Returns:
        NaN for the interval where there is one draw only: it cannot say how draws differ.
    """
    table = np.atleast_2d(np.asarray(table, float))
    mean = _mean_of(table, minus)
    draws, cases = table.shape[:2]
    numbers = np.arange(cases) if groups is None else np.asarray(groups)
    of_group = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    if draws < 2 or not np.isfinite(mean):
        return Estimate(mean, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows, drawn = rng.integers(0, draws, draws), rng.integers(0, len(of_group), len(of_group))
        columns = np.concatenate([of_group[g] for g in drawn])
        means[i] = _mean_of(table[rows][:, columns], None if minus is None else minus[rows][:, columns])
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high))


def _mean_of(table: np.ndarray, minus: np.ndarray | None) -> float:
    """Of what is defined; with a second table the mean over draws of the differences of each draw's two means."""
    if minus is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a draw in which one of the two has no value at all
            first, second = (np.nanmean(t.reshape(len(t), -1), axis=1) for t in (table, minus))
        table = first - second
    return float(np.nanmean(table)) if np.isfinite(table).any() else float("nan")


def bootstrap_draws(values: Sequence[float], resampled: np.ndarray, seed: int = 0) -> Estimate:
    """As `bootstrap_mean` for a score of all cases together, whose resamples of cases have been scored already.

    Args:
        values: (draws,) with all cases; for a paired comparison the differences.
        resampled: (draws, resamples) under the same resamples of cases in every draw; NaN = not defined.
        seed: of the resamples of draws.
    """
    known = np.asarray(values, float)
    mean = float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
    draws, count = resampled.shape
    if draws < 2 or not np.isfinite(mean):
        return Estimate(mean, float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, draws, (draws, count))
    table = np.take_along_axis(resampled, drawn, axis=0)
    means = table[:, np.isfinite(table).any(0)]
    if means.shape[1] == 0:
        return Estimate(mean, float("nan"), float("nan"))
    low, high = np.quantile(np.nanmean(means, 0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high))


def mean_ranks(scores: np.ndarray, larger_is_better: bool = True) -> np.ndarray:
    """Mean rank of each initialisation over draws and cases, 1 = best, ties shared.

    Args:
        scores: (initialisations, draws x cases); columns with NaN are left out.
        larger_is_better: the direction of the metric.
    """
    whole = scores[:, np.isfinite(scores).all(0)]
    if whole.shape[1] == 0:
        return np.full(len(scores), np.nan)
    return np.asarray(rankdata(-whole if larger_is_better else whole, axis=0).mean(1))


def spread(values: Sequence[float]) -> float:
    """Standard deviation over draws (n - 1); NaN for one."""
    known = np.asarray([v for v in values if np.isfinite(v)])
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
