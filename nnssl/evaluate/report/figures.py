"""Figures of a report: metric against labels, learning curves, speed-ups. Each is one matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnssl.evaluate.convergence import SpeedUp, steps_to
from nnssl.evaluate.report.collect import Study
from nnssl.evaluate.report.compare import Comparison, line_of_control
from nnssl.evaluate.report.conclusion import MAIN_Q, speed_short
from nnssl.inspect.figures import INK, panel

COLOURS = ("#7f868d", "#4a90d9", "#d98200", "#009e73", "#cc5fa0", "#8a63d2", "#c0392b", "#2aa1b3", "#a08000", "#5b7a1f")
"""The control first, in grey; told apart on light and dark ground."""


def colour_of(study: Study, init: str) -> str:
    """The same colour for an initialisation in every figure."""
    return COLOURS[study.inits.index(init) % len(COLOURS)]


def against_labels(study: Study, found: Sequence[Comparison], metric: str) -> Any:
    """Mean over draws against the number of labels; bands are the standard deviation over draws."""
    figure, axis = panel(5.4, 3.4)
    alone = len(study.config.counts) == 1
    for i, init in enumerate(study.inits):
        rows = [c for c in found if c.init == init]
        if not rows:
            continue
        x = [float(i) if alone else float(c.count) for c in rows]  # side by side where there is one count only
        y = np.array([c.score[metric] for c in rows])
        sd = np.nan_to_num(np.array([c.sd[metric] for c in rows]))
        colour = colour_of(study, init)
        axis.plot(x, y, "o-", color=colour, label=init, markersize=4, linewidth=1.6)
        if len(rows) > 1:
            axis.fill_between(x, y - sd, y + sd, color=colour, alpha=0.15, linewidth=0)
        else:
            axis.errorbar(x, y, sd, color=colour, capsize=3)
    if alone:
        axis.set_xticks(range(len(study.inits)), study.inits, rotation=30, ha="right")
        axis.set_xlabel(f"with {study.config.counts[0]} labelled {study.unit}s")
        axis.set_ylabel(study.measures.names[metric])
        return figure
    if max(study.config.counts) > 4 * min(study.config.counts):
        axis.set_xscale("log")
    axis.set_xticks(sorted(study.config.counts), [str(c) for c in sorted(study.config.counts)])
    axis.minorticks_off()
    axis.set_xlabel(f"labelled {study.unit}s")
    axis.set_ylabel(study.measures.names[metric])
    _legend_below(figure, axis)
    return figure


def learning_curves(study: Study, count: int) -> Any:
    """Mean over draws of the validation score; the line is 95 % of the control's final value, dots where it is reached."""
    figure, axis = panel(5.4, 3.4)
    line = line_of_control(study, count, MAIN_Q)
    if math.isfinite(line):
        axis.axhline(line, color=COLOURS[0], linestyle=":", linewidth=1.2)
    for init in study.inits:
        cells = study.of(init, count)
        if not cells:
            continue
        steps = cells[0].curve.steps
        values = np.array([c.curve.values for c in cells if c.curve.steps == steps])
        colour = colour_of(study, init)
        axis.plot(steps, values.mean(0), color=colour, label=init, linewidth=1.8)
        for row in values:
            axis.plot(steps, row, color=colour, alpha=0.25, linewidth=0.7)
        reached = steps_to(steps, values.mean(0), line) if math.isfinite(line) else math.inf
        if math.isfinite(reached):
            axis.plot(reached, values.mean(0)[steps.index(int(reached))], "o", color=colour, markersize=5)
    axis.set_xlabel("optimiser steps")
    axis.set_ylabel(f"{study.measures.curve_name}, validation cases")
    _legend_below(figure, axis)
    return figure


def speed_bars(study: Study, found: Sequence[Comparison]) -> Any:
    """Median speed-up to 95 % of the control's final value; a line where it lies between two numbers or beyond one."""
    rows = [c for c in found if c.init != study.config.control and c.speed[MAIN_Q].known]
    if not rows:
        return None
    figure, axis = panel(5.4, 0.9 + 0.32 * len(rows))
    ends = [v for c in rows for v in (c.speed[MAIN_Q].low, c.speed[MAIN_Q].high) if math.isfinite(v)]
    right = max(1.5, 1.25 * max(ends))
    for i, c in enumerate(rows):
        _speed_row(axis, i, c.speed[MAIN_Q], colour_of(study, c.init), right)
    axis.axvline(1, color=COLOURS[0], linewidth=1)
    axis.set_yticks(range(len(rows)), [f"{c.init}, {c.count}" for c in rows])
    axis.invert_yaxis()
    axis.set_xlabel(
        f"speed-up to {100 * MAIN_Q:.0f} % of the control's final {study.measures.curve_name} (1 = as fast)"
    )
    axis.set_xlim(0, right)
    return figure


def _speed_row(axis: Any, row: int, speed: SpeedUp, colour: str, right: float) -> None:
    """A bar from "as soon" to what is certain, a line over what is possible, and the number."""
    certain = speed.low if speed.low >= 1 else min(speed.high, 1.0)
    axis.barh(row, certain - 1, left=1, color=colour, height=0.7)
    if speed.low < speed.high:
        axis.plot([speed.low, min(speed.high, right)], [row, row], color=INK, linewidth=1)
    axis.annotate(
        speed_short(speed),
        (min(max(speed.high, 1), 0.85 * right), row),
        xytext=(4, 7 if speed.low < speed.high else 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK,
    )


def _legend_below(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(4, len(labels)),
            frameon=False,
            fontsize=8,
            labelcolor=INK,
        )
