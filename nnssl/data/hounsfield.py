"""Hounsfield units (HU): whether a CT has them, and pool-wide statistics from a histogram.

How the fingerprint uses this, for every channel for which `is_ct(name)`:

    reason = explain_not_hounsfield(channel, dtype_on_disk)     # None, or why it is no CT in HU
    counts = hu_histogram(channel[body])                        # zeros for a case with a reason: it is not in HU

`nnsslPlannerCT` then calls `window_statistics` on the pool's summed counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LOWEST = -1100
BIN_WIDTH = 10
BINS = 420
"""Bins [LOWEST + i * BIN_WIDTH, LOWEST + (i + 1) * BIN_WIDTH): -1100 to 3100 HU, air to what 12 bits can hold."""

PADDING_HU = -1200.0
"""No scanner measures less; -2000 or -3024 mark voxels outside its field of view."""

_EIGHT_BIT = ("uint8", "int8", "bool")
_AGAIN = "convert the DICOM series again with a tool that keeps Hounsfield units (nnssl_import does)"
_RENAME = "or rename the channel in dataset.json, if a z-score per case is meant"


def is_ct(channel_name: str) -> bool:
    """Whether a channel is CT to nnU-Net: it is called `CT`, in capitals or not."""
    return channel_name.casefold() == "ct"


def explain_not_hounsfield(data: np.ndarray, dtype: str | None = None) -> str | None:
    """Say why an image cannot be a CT in Hounsfield units, if so.

    Judged by values alone, on a sparse sample. Padding, metal, and crops from inside the body without any air are fine;
    so is an export through a window as long as the values inside are HU (see `exported_window`).

    Args:
        data: one channel (Z, Y, X), as read.
        dtype: voxel type on disk, for example `uint8`; None = unknown.

    Returns:
        "what is wrong; what to do", or None when the values may be HU.
    """
    sample = _sample(data)
    inside = sample[sample > PADDING_HU]
    if inside.size == 0:
        return f"all values lie below {PADDING_HU:g} HU, where there is only padding; {_AGAIN}"
    low, bright, high = (float(v) for v in np.percentile(inside, (0.5, 95, 99.5)))
    least, most = float(inside.min()), float(inside.max())
    if dtype in _EIGHT_BIT and least >= 0 and most <= 255:
        return f"stored as {dtype} with values {least:g} to {most:g}: a picture, not a measurement; {_AGAIN}, {_RENAME}"
    if high - low <= 12:
        return (
            f"values run from {low:.2g} to {high:.2g}: scaled to a unit range or z-scored already; {_AGAIN}, {_RENAME}"
        )
    if least == 0 and most == 255:
        return f"values run from 0 to 255 exactly: scaled to the range of a picture; {_AGAIN}, {_RENAME}"
    if bright > 5000:
        return f"values run up to {most:.0f}, beyond any tissue or metal: scaled, or negative values wrapped round; {_AGAIN}"
    if low >= -50:
        return _explain_without_negative(inside, high)
    if high < -200 and inside.size < 0.8 * sample.size:
        return f"no tissue, all values lie below {high:.0f}, as if the intercept were applied twice; {_AGAIN}"
    return None


def _explain_without_negative(inside: np.ndarray, high: float) -> str | None:
    """An image with next to no negative values: fat and air are missing, moved, or really not there.

    A crop of a contrasted organ has none of them, but also no dark background and nothing at +1024; an export through a
    brain window (0 to 80 HU) has a dark background, but ends below 180.
    """
    if float(((inside > 800) & (inside < 1300)).mean()) > 0.05:
        return (
            "hardly a negative value, and many where soft tissue lies with 1024 added: looks like CT stored without its "
            f"intercept; subtract 1024 (or the RescaleIntercept of the DICOM header), or {_AGAIN}"
        )
    if high > 180 and float((inside <= 20).mean()) > 0.1:
        return (
            f"a dark background at 0 and values up to {high:.0f}, where CT has air at -1000 and fat at -100: scaled, or "
            f"not CT; {_AGAIN}, {_RENAME}"
        )
    return None


def _sample(data: np.ndarray) -> np.ndarray:
    """At most 64 voxels along each axis."""
    return data[tuple(slice(None, None, max(1, n // 64)) for n in data.shape)].ravel()


def exported_window(intensity: Mapping[str, float]) -> tuple[float, float] | None:
    """Bounds (low, high) in HU of the window through which a CT was exported, if it was.

    Such a file is cut off at the top: at least 0.5 % of the body has exactly the highest value, below where any scanner
    stops. Its lowest value tells the lower bound, unless it is that of gas or skin (below -450 HU): then -1000.

    Args:
        intensity: of the body: min, percentile_99_5 and max in HU, as in the fingerprint's `measured`.
    """
    low, high = float(intensity["min"]), float(intensity["max"])
    if high != float(intensity["percentile_99_5"]) or high >= 2000:
        return None
    return (low if low > -450 else -1000.0), high


def hu_histogram(values: np.ndarray) -> np.ndarray:
    """Counts (BINS,) int64 of values in HU; what lies outside the bins counts in the first or the last."""
    bins = np.floor((np.asarray(values, dtype=np.float64).ravel() - LOWEST) / BIN_WIDTH)
    return np.bincount(np.clip(bins, 0, BINS - 1).astype(np.int64), minlength=BINS)


def histogram_percentiles(histogram: Mapping[str, Any], shares: Sequence[float]) -> list[float]:
    """Percentiles in HU from a histogram {`low`, `step`, `counts`}, linear within a bin.

    Args:
        histogram: as the fingerprint's `ct_histogram` has it per channel.
        shares: in percent.
    """
    counts = np.asarray(histogram["counts"], dtype=np.float64)
    edges = histogram["low"] + histogram["step"] * np.arange(counts.size + 1)
    reached = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    grows = np.concatenate([[True], np.diff(reached) > 0])
    grows[np.flatnonzero(grows[1:])] = True  # the lower edge of every bin that holds something
    return [float(v) for v in np.interp(np.asarray(shares) / 100, reached[grows], edges[grows])]


def window_statistics(
    histogram: Mapping[str, Any], low: float | None = None, high: float | None = None
) -> dict[str, float]:
    """nnU-Net's intensity properties of a CT channel for its `CTNormalization`: clip to bounds, then (x - mean) / std.

    Args:
        histogram: {`low`, `step`, `counts`} of body voxels in HU.
        low, high: clip bounds in HU; None = the 0.5 and 99.5 percentiles.

    Returns:
        percentile_00_5 and percentile_99_5 = the clip bounds, which is what nnU-Net uses these entries for; mean and std
        of the clipped values; median, min and max of all values (to a bin's width).
    """
    p_low, median, p_high = histogram_percentiles(histogram, (0.5, 50.0, 99.5))
    low, high = p_low if low is None else low, p_high if high is None else high
    counts = np.asarray(histogram["counts"], dtype=np.float64)
    # Voxels of a bin are taken as spread evenly over its whole numbers: CT is stored in whole HU.
    numbers = histogram["low"] + np.arange(counts.size * histogram["step"], dtype=np.float64)
    weights = np.repeat(counts, histogram["step"]) / (counts.sum() * histogram["step"])
    clipped = np.clip(numbers, low, high)
    mean = float((weights * clipped).sum())
    there = np.flatnonzero(counts)
    return {
        "mean": mean,
        "median": median,
        "std": float(np.sqrt((weights * (clipped - mean) ** 2).sum())),
        "min": float(histogram["low"] + there[0] * histogram["step"]),
        "max": float(histogram["low"] + (there[-1] + 1) * histogram["step"]),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
