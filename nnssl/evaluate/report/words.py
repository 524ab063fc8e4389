"""Numbers as the report's tables show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnssl.evaluate.convergence import SpeedUp
from nnssl.evaluate.report.conclusion import MAIN_Q, speed_cell
from nnssl.evaluate.statistics import Estimate


def decimals(value: float, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def plus_minus(value: float, sd: float) -> str:
    """Mean and standard deviation."""
    return decimals(value, 3) + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def interval(estimate: Any) -> str:
    """A difference with its interval; nothing for the control."""
    if not isinstance(estimate, Estimate) or math.isnan(estimate.mean):
        return ""
    if math.isnan(estimate.low):
        return f"{estimate.mean:+.3f}"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def speed(values: Mapping[float, SpeedUp], control: bool) -> str:
    """Speed-up to the main line."""
    return "1x" if control else speed_cell(values[MAIN_Q])


def share(value: float) -> str:
    """Percent."""
    return "" if math.isnan(value) else f"{100 * value:.0f} %"


FILTERS = {
    "digits": decimals,
    "two": lambda v: decimals(v, 2),
    "three": lambda v: decimals(v, 3),
    "pm": plus_minus,
    "interval": interval,
    "speed": speed,
    "share": share,
}
