"""Cases that are unlike the rest: named, so that a person can look before a network learns from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nnssl.planners.measure import CaseFacts

FEWEST = 5
"""Among fewer cases nothing is usual."""
ROBUST_Z = 6.0
"""Distance from the median in robust standard deviations (1.4826 x the median absolute deviation)."""
RARE = 0.1
"""Share of the cases up to which something is unusual; what more of them have in common is a second kind of data."""
HU_APART = 300.0
"""HU between a case's and the usual median: Hounsfield units have a fixed zero, so a factor means nothing."""


def find_outliers(facts: Mapping[str, CaseFacts], channel_names: Sequence[str]) -> dict[str, list[str]]:
    """Plain sentences about each case whose spacing, size, intensity, orientation or voxel type is far off the rest.

    A case is far off when it differs from the median by more than `ROBUST_Z` robust standard deviations *and* by a factor
    that matters: 1.5 for spacing, 2.5 for size, 5 for intensity. Where the cases scatter widely, as raw MR intensities
    do, none is.

    Args:
        facts: of the usable cases.
        channel_names: as in dataset.json.

    Returns:
        Case -> sentences; cases without any are left out.
    """
    found: dict[str, list[str]] = {name: [] for name in facts}
    for name, fact in facts.items():
        if fact.not_hounsfield:
            found[name].append(f"no Hounsfield units: {fact.not_hounsfield}")
        if fact.misplaced:
            found[name].append(fact.misplaced)
    if len(facts) >= FEWEST:
        names = list(facts)
        spacing = np.array([facts[n].spacing for n in names])
        extent = spacing * np.array([facts[n].shape_after_crop for n in names])
        for axis in range(3):
            letter = "ZYX"[axis]
            _factors(found, names, spacing[:, axis], 1.5, f"spacing along {letter} is {{}} mm, usual is {{}} mm")
            _factors(found, names, extent[:, axis], 2.5, f"{{}} mm long along {letter}, usual is {{}} mm")
        _factors(found, names, np.array([max(facts[n].foreground_share, 1e-4) for n in names]), 5, _SHARE)
        for c, channel in enumerate(channel_names):
            _intensities(found, facts, c, channel)
        for what, values in (
            ("orientation", [facts[n].orientation for n in names]),
            ("voxel type", [facts[n].dtype for n in names]),
        ):
            _rarities(found, names, what, values)
    return {name: sentences for name, sentences in found.items() if sentences}


_SHARE = "the body fills {} of the image, usual is {}"


def _intensities(found: dict[str, list[str]], facts: Mapping[str, CaseFacts], c: int, channel: str) -> None:
    names = list(facts)
    median = np.array([facts[n].intensity[c]["median"] for n in names])
    if channel.casefold() == "ct":
        for i in _far(median, HU_APART):
            found[names[i]].append(f"median intensity {median[i]:.0f} HU, usual is {np.median(median):.0f} HU")
        return
    spread = np.array(
        [facts[n].intensity[c]["percentile_99_5"] - facts[n].intensity[c]["percentile_00_5"] for n in names]
    )
    _factors(found, names, np.maximum(spread, 1e-12), 5, f"intensities of {channel} span {{}}, usual is {{}}")


def _factors(found: dict[str, list[str]], names: Sequence[str], values: np.ndarray, factor: float, text: str) -> None:
    usual = _short(float(np.median(values)))
    for i in _far(np.log(values), float(np.log(factor))):
        found[names[i]].append(text.format(_short(values[i]), usual))


def _far(values: np.ndarray, least: float) -> np.ndarray:
    """Positions of the few values that are far from the median, by scatter and by at least `least`."""
    apart = np.abs(values - np.median(values))
    deviation = max(1.4826 * float(np.median(apart)), 1e-9)
    far = np.flatnonzero((apart > least) & (apart / deviation > ROBUST_Z))
    return far if len(far) <= max(1, RARE * len(values)) else far[:0]


def _rarities(found: dict[str, list[str]], names: Sequence[str], what: str, values: Sequence[str | None]) -> None:
    counts = Counter(values)
    usual, most = counts.most_common(1)[0]
    for name, value in zip(names, values):
        if value is not None and counts[value] <= max(1, RARE * len(names)) and most > len(names) / 2:
            found[name].append(f"{what} {value}, usual is {usual} ({most} of {len(names)} cases)")


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
