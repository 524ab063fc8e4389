"""Statistics of a study: paired over draws and cases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata, t

RESAMPLES = 10_000
LEVEL = 0.95
FEW_DRAWS = 5
"""Fewer draws than these are a first look."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: over draws.
        low, high: ends of the 95 % interval; NaN where there is none.
        draws: that have a value.
    """

    mean: float
    low: float
    high: float
    draws: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: np.ndarray, second: np.ndarray, groups: Sequence[int] | None = None, seed: int = 0
) -> Estimate:
    """Mean over draws of the difference of two scores, each the mean of a draw's cases and labels, with its interval.

    Each score is over what it has, so a case in which one of the two has no value (rightly nothing predicted) does not hide
    what the other did there. The cases are the same in every draw, so one resample of them serves all draws.

    Args:
        first, second: (draws, cases) or (draws, cases, labels), NaN where there is no value.
        groups: number of each case's patient, whose cases are drawn together; None = every case is one of its own.
        seed: of the resamples; the same tables give the same interval.

    Returns:
        NaN for the interval where one draw or one patient only has a value: it cannot say how others differ.
    """
    numbers = np.arange(first.shape[1]) if groups is None else np.asarray(groups)
    there = [np.isfinite(table).reshape(len(table), len(numbers), -1).any((0, 2)) for table in (first, second)]
    if not (there[0].any() and there[1].any()):
        return Estimate(math.nan, math.nan, math.nan, 0)
    some = there[0] | there[1]
    _, group_of = np.unique(numbers[some], return_inverse=True)
    count = int(group_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights, once = drawn[:, group_of], np.ones((1, len(group_of)))  # (resamples, cases): how often each is drawn
    sides = [_means(table[:, some], weights) for table in (first, second)]
    own = [_means(table[:, some], once)[:, 0] for table in (first, second)]
    # a label that few of the patients show has its chance from these alone: each side's part by its own number
    parts = [float(np.nanvar(_mean(side))) for side in sides]
    factors = [widening(len(np.unique(numbers[side]))) for side in there]
    whole = sum(parts)
    of_cases = math.sqrt(sum(p * f**2 for p, f in zip(parts, factors)) / whole) if whole > 0 else float(np.max(factors))
    return interval_of_draws(own[0] - own[1], sides[0] - sides[1], of_cases, seed)


def _means(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws, resamples) means over cases and labels of what is defined; NaN where nothing is."""
    table = np.asarray(table, float)
    table = table.reshape(*table.shape[:2], -1)
    there = np.isfinite(table)
    total, number = np.where(there, table, 0).sum(2) @ weights.T, there.sum(2) @ weights.T
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def interval_of_draws(
    values: Sequence[float] | np.ndarray, resampled: np.ndarray, case_factor: float, seed: int = 0
) -> Estimate:
    """Mean over draws with a 95 % interval that holds the chance of draws and that of test cases, which are crossed.

    A percentile bootstrap in which draws are resampled over the given resamples of cases. The bootstrap knows nothing of how
    badly a few draws show their own spread, and is too narrow for it; so the interval is made wider, by Student's quantile
    (`widening`) for the share of the variance that comes of each.

    Args:
        values: (draws,) of all cases, NaN = not defined; for a paired comparison the differences.
        resampled: (draws, resamples) of the same under resamples of cases, alike in every draw; NaN = not defined.
        case_factor: `widening` of the number of patients that were resampled.
        seed: of the resamples of draws.

    Returns:
        NaN for the interval of fewer than two draws or cases.
    """
    known = np.asarray(values, float)
    mean, number = float(_mean(known)), int(np.isfinite(known).sum())
    draws, count = resampled.shape
    if number < 2 or math.isnan(case_factor):
        return Estimate(mean, math.nan, math.nan, number)
    drawn = np.random.default_rng(seed).integers(0, draws, (draws, count))
    both = _mean(np.take_along_axis(resampled, drawn, axis=0))
    both = both[np.isfinite(both)]
    if len(both) == 0:
        return Estimate(mean, math.nan, math.nan, number)
    of_draws, of_cases = np.nanvar(known) / number, np.nanvar(_mean(resampled))
    more = (widening(number) ** 2 - 1) * of_draws + (case_factor**2 - 1) * of_cases
    factor = math.sqrt(1 + more / both.var()) if both.var() > 0 else 1.0
    # around the resamples' own centre: what they are off by (scores of classes are, in small resamples) must not grow too
    low, high = factor * (np.quantile(both, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - both.mean())
    return Estimate(mean, float(mean + low), float(mean + high), number)


def widening(number: int) -> float:
    """By how much a bootstrap of so many things is too narrow: Student's quantile over the normal one, and n for n - 1.

    NaN below two, which say nothing of how such things differ.
    """
    if number < 2:
        return math.nan
    quantile = (1 + LEVEL) / 2
    return float(t.ppf(quantile, number - 1) / norm.ppf(quantile) * math.sqrt(number / (number - 1)))


def _mean(table: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing is defined
        return np.nanmean(table, axis=0)


def mean_ranks(scores: np.ndarray, larger_is_better: bool = True) -> np.ndarray:
    """Mean rank of each initialisation over draws and cases, 1 = best, ties shared.

    Args:
        scores: (initialisations, draws x cases); columns with NaN are left out; infinite is the largest.
        larger_is_better: the direction of the metric.
    """
    whole = scores[:, ~np.isnan(scores).any(0)]
    if whole.shape[1] == 0:
        return np.full(len(scores), np.nan)
    return np.asarray(rankdata(-whole if larger_is_better else whole, axis=0).mean(1))


def spread(values: Sequence[float]) -> float:
    """Standard deviation over draws (n - 1); NaN for one."""
    known = np.asarray([v for v in values if np.isfinite(v)])
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
