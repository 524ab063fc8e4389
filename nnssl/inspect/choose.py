"""Which cases to show: the typical one, the extremes, the outliers, and the rest evenly spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnssl.inspect.cases import KnownCase
from nnssl.inspect.facts import Facts

LARGE = 6
"""Cases shown with all three planes."""

ALIKE = 0.02
"""Relative difference below which the least and the most are no extremes."""

OUTLIERS_PER_CASE = 2
"""Outliers are shown beyond the wanted number of cases, up to this many times it."""


@dataclass(frozen=True)
class Choice:
    """A case to show, why (empty for the evenly spread ones), and whether with all three planes."""

    name: str
    reasons: tuple[str, ...]
    large: bool


def choose_cases(facts: Facts, count: int) -> list[Choice]:
    """Choose cases in the order of the dataset.

    Args:
        facts: of the dataset.
        count: about how many; half of them are ordinary cases even where extremes and outliers alone would be more.
    """
    cases = [c for c in facts.cases if c.name in facts.raw]
    if not cases or count < 1:
        return []
    known = {c.name for c in cases}
    reasons: dict[str, list[str]] = {}
    for name, reason in _extremes(cases):
        reasons.setdefault(name, []).append(reason)
    outliers = [n for n in facts.outliers if n in known][: OUTLIERS_PER_CASE * count]
    for name in outliers:
        reasons.setdefault(name, []).append("outlier")
    others = [c.name for c in cases if c.name not in reasons]
    wanted = min(max(count // 2, count - len(reasons)), len(others))
    spread = {others[i] for i in np.linspace(0, len(others) - 1, wanted).round().astype(int)} if wanted else set()
    large = _large(list(reasons), outliers, [c.name for c in cases if c.name in spread])
    return [
        Choice(c.name, tuple(reasons.get(c.name, ())), c.name in large)
        for c in cases
        if c.name in reasons or c.name in spread
    ]


def _large(marked: Sequence[str], outliers: Sequence[str], spread: Sequence[str]) -> set[str]:
    """The typical case and the first extremes, two outliers, then what is left."""
    order = [*marked[:4], *outliers[:2], *marked[4:], *spread]
    return set(list(dict.fromkeys(order))[:LARGE])


def _extremes(cases: Sequence[KnownCase]) -> list[tuple[str, str]]:
    """Case and what is extreme about it; nothing where all cases are alike."""
    found = []
    typical = _typical(cases)
    if typical:
        found.append((typical, "typical"))
    measures: list[tuple[Callable[[KnownCase], float | None], str, str]] = [
        (lambda c: float(np.prod(c.shape)) if c.shape else None, "fewest voxels", "most voxels"),
        (lambda c: float(np.prod(c.spacing)) if c.spacing else None, "finest spacing", "coarsest spacing"),
        (lambda c: c.intensity[0].get("median") if c.intensity else None, "darkest", "brightest"),
        (lambda c: c.foreground_share, "least foreground", "most foreground"),
    ]
    for measure, least, most in measures:
        values = {c.name: v for c in cases if (v := measure(c)) is not None}
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        if high - low > ALIKE * max(abs(low), abs(high)):
            found += [(min(values, key=values.__getitem__), least), (max(values, key=values.__getitem__), most)]
    return found


def _typical(cases: Sequence[KnownCase]) -> str | None:
    """The case closest to the median shape and spacing, by logarithms."""
    named = [c for c in cases if c.shape and c.spacing and len(c.shape) == len(c.spacing) == 3]
    if not named:
        return None
    features = np.log(np.maximum([[*c.shape, *c.spacing] for c in named], 1e-6))  # type: ignore[misc]
    distance = np.abs(features - np.median(features, axis=0)).sum(axis=1)
    return named[int(np.argmin(distance))].name
