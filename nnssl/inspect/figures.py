"""The figures of the page: distributions over cases, as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_POINTS = 500
"""Cases drawn in a line; of larger pools evenly picked ones, first and last included."""

INK = "#010203"
"""Stands for the colour of the page's text, light or dark."""

BLUE, ORANGE, GREEN = "#4a90d9", "#d98200", "#009e73"
"""Told apart with any colour vision, and on light and dark ground."""

WIDE_RANGE = 300.0
"""Intensities whose bright ends differ more than this many times are drawn on a logarithmic scale."""


def distribution(
    values: Sequence[float], label: str, marks: Mapping[str, float] | None = None, logarithmic: bool = False
) -> str:
    """Histogram over cases, with vertical lines at `marks` (name -> value).

    Args:
        values: one per case.
        label: quantity and unit.
        marks: values to compare with.
        logarithmic: bins of equal ratio, for positive values over several orders.
    """
    figure, axis = panel()
    data = np.asarray(values, dtype=float)
    low, high = float(data.min()), float(data.max())
    if logarithmic and low > 0 and high > 30 * low:
        bins: Any = np.geomspace(low, high, 25)
        axis.set_xscale("log")
    else:
        margin = 0.5 if np.all(data == data.round()) else (0.2 if low == high else 0.02) * max(abs(high), 1e-6)
        bins = np.linspace(low - margin, high + margin, 2 if low == high else min(30, max(8, len(set(values)))))
    axis.hist(data, bins=bins, color=BLUE, edgecolor=INK, linewidth=0.4)
    if low == high:
        axis.set_xlim(low - 1.5 * max(abs(low), 1), low + 1.5 * max(abs(low), 1))
        axis.set_xticks([low])
    for (name, value), style in zip((marks or {}).items(), ("-", "--", ":", "-.")):
        axis.axvline(value, color=ORANGE, linestyle=style, linewidth=1.8, label=name)
    if marks:
        legend(figure, axis)
    axis.set_xlabel(label)
    axis.set_ylabel("cases")
    axis.yaxis.get_major_locator().set_params(integer=True)
    return svg_of(figure)


def intensity_fan(intensity: Sequence[Mapping[str, float]], channel: str, unit: str) -> str:
    """Range of intensities of every case inside the body, cases sorted by their median.

    Args:
        intensity: per case `min`, `percentile_00_5`, `median`, `percentile_99_5`, `max`.
        channel, unit: what was measured, and in which unit.
    """
    every = sorted(intensity, key=lambda i: i["median"])
    picked = np.linspace(0, len(every) - 1, min(len(every), MOST_POINTS)).round().astype(int)
    ordered = [every[i] for i in picked]
    x = picked + 1 if len(ordered) > 1 else np.array([0.6, 1.4])
    rows = {k: [i[k] for i in ordered] * (1 if len(ordered) > 1 else 2) for k in _FAN}
    figure, axis = panel(width=4.6)
    axis.fill_between(x, rows["min"], rows["max"], color=BLUE, alpha=0.25, linewidth=0, label="least to most")
    axis.fill_between(
        x, rows["percentile_00_5"], rows["percentile_99_5"], color=BLUE, alpha=0.6, linewidth=0, label="0.5 to 99.5 %"
    )
    axis.plot(x, rows["median"], color=ORANGE, linewidth=1.8, label="median")
    if mixed_scales(rows["percentile_99_5"]):
        axis.set_yscale("symlog", linthresh=min(abs(v) for v in rows["percentile_99_5"] if v))
    axis.set_xlabel("cases, by their median")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(f"intensity ({unit})")
    axis.set_title(f"{channel} inside the body", fontsize=9, color=INK)
    legend(figure, axis)
    return svg_of(figure)


def mixed_scales(values: Sequence[float]) -> bool:
    """Whether bright values of cases are so far apart that a linear axis would hide most of them."""
    scale = [abs(v) for v in values if v]
    return bool(scale) and max(scale) > WIDE_RANGE * min(scale)


def ct_histogram(histogram: Mapping[str, Any], clip: tuple[float, float] | None) -> str:
    """Hounsfield units inside the body over the pool, with the plans' clip bounds."""
    counts = np.asarray(histogram["counts"], dtype=float)
    low, step = float(histogram["low"]), float(histogram["step"])
    share = 100 * counts / max(counts.sum(), 1.0)
    left = low + step * np.arange(len(share))
    figure, axis = panel(width=4.6)
    axis.bar(left, share, width=step, align="edge", color=BLUE, linewidth=0)
    if clip is not None:
        axis.axvspan(clip[0], clip[1], color=GREEN, alpha=0.15, linewidth=0, label="kept by the plans")
        for bound in clip:
            axis.axvline(bound, color=ORANGE, linewidth=1.8, linestyle="--")
        axis.plot([], [], color=ORANGE, linestyle="--", label=f"clipped at {clip[0]:.0f} and {clip[1]:.0f} HU")
        legend(figure, axis)
    used = np.flatnonzero(share > 0)
    if used.size:
        bounds = [left[used[0]], left[used[-1]] + step, *(clip or ())]
        axis.set_xlim(min(bounds) - 2 * step, max(bounds) + 2 * step)
    axis.set_xlabel("intensity inside the body (HU); the end bins hold all beyond them")
    axis.set_ylabel("share of voxels (%)")
    return svg_of(figure)


_FAN = ("min", "percentile_00_5", "median", "percentile_99_5", "max")


def panel(width: float = 3.1, height: float = 2.3) -> tuple[Any, Any]:
    """A figure (inches) in the page's style, and its axes."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with plt.rc_context({**style, "font.size": 9}):
        figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def legend(figure: Any, axis: Any) -> None:
    """A legend above the axes, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 1 if max(len(label) for label in labels) > 16 else 3
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8, framealpha=0, labelcolor=INK)


def svg_of(figure: Any) -> str:
    """A figure as an SVG element: transparent, text as text, ids that no other figure of the page has."""
    import matplotlib.pyplot as plt

    file = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    svg_of.count += 1  # type: ignore[attr-defined]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{svg_of.count}-", text)  # type: ignore[attr-defined]


svg_of.count = 0  # type: ignore[attr-defined]
