"""How soon a learning curve is good for good: T(q), speed-up, area under the curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid

SMOOTHING = 3
"""Evaluations of which the median is taken."""
STAYS = 3
"""Evaluations for which a curve must stay above the line, or up to the end where fewer are left."""
QUANTILES = (0.90, 0.95, 0.99)


def smooth(values: Sequence[float]) -> np.ndarray:
    """Running median of three evaluations; the first and the last one are their own with their neighbour repeated."""
    padded = np.pad(np.asarray(values, float), SMOOTHING // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING), axis=1)


def steps_to(steps: Sequence[int], values: Sequence[float], line: float) -> float:
    """First step from which the smoothed curve stays at or above a line; infinite if it never does.

    Args:
        steps: of the evaluations, rising.
        values: metric at these steps.
        line: to reach.
    """
    above = smooth(values) >= line
    for i, step in enumerate(steps):
        if above[i : i + STAYS].all():
            return float(step)
    return math.inf


def area(steps: Sequence[int], values: Sequence[float]) -> float:
    """Mean of the curve over the steps (trapezoid): the area under it divided by its length."""
    x = np.asarray(steps, float)
    return float(trapezoid(np.asarray(values, float), x) / (x[-1] - x[0])) if len(x) > 1 else math.nan


@dataclass(frozen=True)
class SpeedUp:
    """Steps of the control over steps of the other one: of a draw, or the median over draws.

    Where one of the two never reached the line only a bound is known, and where neither did nothing is.

    Attributes:
        low, high: between these it lies; equal where it is known, 0 and infinity where nothing is.
        reached: draws in which both reached the line.
        draws: of how many.
        one: draws in which one of the two reached it and the other did not.
    """

    low: float
    high: float
    reached: int = 1
    draws: int = 1
    one: int = 0

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return self.low > 0 or self.high < math.inf


UNKNOWN_SPEED_UP = SpeedUp(0.0, math.inf, 0, 0)


def speed_up(control: float, other: float, length: int) -> SpeedUp:
    """Speed-up of one draw.

    Args:
        control, other: steps to the line, infinite if it was not reached. Step 0 counts as 1: better before any training.
        length: steps of the training.
    """
    first, second = (max(1.0, v) for v in (control, other))
    if math.isinf(first) and math.isinf(second):
        return SpeedUp(0.0, math.inf, 0)
    if math.isinf(second):
        return SpeedUp(0.0, first / length, 0, one=1)
    if math.isinf(first):
        return SpeedUp(length / second, math.inf, 0, one=1)
    return SpeedUp(first / second, first / second)


def median_speed_up(found: Sequence[SpeedUp]) -> SpeedUp:
    """Median over draws: whatever the unknown ones are, it lies between the median of the lows and that of the highs.

    The median of an even number is the mean of the two in the middle on a logarithmic scale.
    """
    if not found:
        return UNKNOWN_SPEED_UP
    low, high = (_log_median([getattr(s, side) for s in found]) for side in ("low", "high"))
    return SpeedUp(low, high, sum(s.reached for s in found), len(found), sum(s.one for s in found))


def _log_median(values: Sequence[float]) -> float:
    first, second = (sorted(values)[i] for i in ((len(values) - 1) // 2, len(values) // 2))
    if first == second or first == 0 or second == math.inf:
        return second if first == second or second == math.inf else first
    return math.sqrt(first * second)
