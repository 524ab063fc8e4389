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
    """Steps of the control over steps of the other one, of one draw.

    Attributes:
        ratio: of the two; where the other one never reached the line, an upper bound: the control's steps over the length of
            the training; where the control never did, a lower bound; NaN where neither did.
        censored: `""`, `"at most"` or `"at least"`.
    """

    ratio: float
    censored: str = ""


def speed_up(control: float, other: float, length: int) -> SpeedUp:
    """Speed-up of one draw.

    Args:
        control, other: steps to the line, infinite if it was not reached. Step 0 counts as 1: better before any training.
        length: steps of the training.
    """
    first, second = (max(1.0, v) for v in (control, other))
    if math.isinf(first) and math.isinf(second):
        return SpeedUp(math.nan)
    if math.isinf(second):
        return SpeedUp(first / length, "at most")
    if math.isinf(first):
        return SpeedUp(length / second, "at least")
    return SpeedUp(first / second)


def median_speed_up(found: Sequence[SpeedUp]) -> SpeedUp:
    """Median over draws, which a few censored ones do not change: bounds are ordered by their value.

    The median of an even number is the mean of the two in the middle on a logarithmic scale; a bound itself where one of
    those is.
    """
    known = sorted((s for s in found if not math.isnan(s.ratio)), key=lambda s: s.ratio)
    if not known:
        return SpeedUp(math.nan)
    middle = known[(len(known) - 1) // 2 : len(known) // 2 + 1]
    ratio = math.exp(sum(math.log(s.ratio) for s in middle) / len(middle))
    marks = {s.censored for s in middle if s.censored}
    return SpeedUp(ratio, marks.pop() if len(marks) == 1 else "")
