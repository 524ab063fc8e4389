"""A study's comparison in numbers: every initialisation beside the control, count by count."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnssl.evaluate.convergence import (
    QUANTILES,
    UNKNOWN_SPEED_UP,
    SpeedUp,
    area,
    median_speed_up,
    smooth,
    speed_up,
    steps_to,
)
from nnssl.evaluate.report.collect import CellResult, Study, mean
from nnssl.evaluate.statistics import Estimate, interval_of_draws, mean_ranks, paired_difference, spread, widening

DISTANCE = "hd95"
"""The metric that is not defined where one of two outlines is empty."""


@dataclass(frozen=True)
class Comparison:
    """One initialisation at one count.

    Attributes:
        init, count: which.
        draws: finished draws.
        score: metric -> mean over draws (and cases and labels).
        sd: metric -> standard deviation over the draws' means.
        difference: metric -> paired difference to the control, its interval, draws that have both; empty for the control.
        better: share of draws in which it is better than the control.
        speed: q -> median over draws of the control's steps over its own to q times the control's final value.
        reached: q -> steps of each draw.
        area: mean height of the learning curve over draws.
        rank: mean rank among all initialisations.
        labels: label -> mean of the main metric; class -> recall.
        undefined: share of case-label pairs without a distance.
        seconds: median of the training time.
    """

    init: str
    count: int
    draws: int
    score: dict[str, float]
    sd: dict[str, float]
    difference: dict[str, Estimate]
    better: float
    speed: dict[float, SpeedUp]
    reached: dict[float, list[float]]
    area: float
    rank: float
    labels: dict[str, float]
    undefined: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(study: Study, metric: str) -> list[Comparison]:
    """Every initialisation at every count that has a finished draw.

    Args:
        study: as read.
        metric: main one, of which per-label means and ranks are.
    """
    found = []
    for count in study.config.counts:
        ranks = _ranks(study, count, metric)
        found += [
            _one(study, init, count, metric, ranks.get(init, math.nan)) for init in study.inits if study.of(init, count)
        ]
    return found


def _one(study: Study, init: str, count: int, metric: str, rank: float) -> Comparison:
    cells = study.of(init, count)
    means = {m: [c.means[m] for c in cells] for m in study.measures.names}
    pairs = study.paired(init, count) if init != study.config.control else []
    gains = [a.means[metric] - b.means[metric] for a, b in pairs]
    sign = 1 if study.measures.larger_is_better(metric) else -1
    reached, speed = _convergence(study, init, count)
    distances = [~np.isfinite(c.scores[DISTANCE]) for c in cells if c.scores]
    return Comparison(
        init=init,
        count=count,
        draws=len(cells),
        score={m: mean(np.asarray(v)) for m, v in means.items()},
        sd={m: spread(v) for m, v in means.items()},
        difference={m: difference(study, init, study.config.control, count, m) for m in study.measures.names}
        if pairs
        else {},
        better=float(np.mean([sign * g > 0 for g in gains])) if gains else math.nan,
        speed=speed,
        reached=reached,
        area=float(np.mean([area(c.curve.steps, c.curve.values) for c in cells])),
        rank=rank,
        labels=_labels(study, cells, metric),
        undefined=float(np.mean(distances)) if distances else math.nan,
        seconds=float(np.median([c.seconds for c in cells])),
    )


def _labels(study: Study, cells: list[CellResult], metric: str) -> dict[str, float]:
    """Mean over draws of the metric of each label, or of the recall of each class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label that no case has
        rows = [np.nanmean(c.scores[metric], axis=0) if c.scores else c.recalls for c in cells]
        return dict(zip(study.labels, (float(v) for v in np.nanmean(np.stack(rows), axis=0))))


def difference(study: Study, init: str, other: str, count: int, metric: str) -> Estimate:
    """Paired over draws and test cases: the difference of both arms' means over cases and labels, which are the scores.

    So a label that is not there and is predicted by one arm counts for that arm, and has no value for the other. Not so a
    distance: an arm that finds a difficult label must not look worse for it than one that does not, so only labels count for
    which both have one.
    """
    pairs = study.paired(init, count, other)
    if not pairs:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if pairs[0][0].resampled:
        whole = [a.means[metric] - b.means[metric] for a, b in pairs]
        resampled = np.stack([a.resampled[metric] - b.resampled[metric] for a, b in pairs])
        return interval_of_draws(whole, resampled, widening(pairs[0][0].patients))
    first, second = (np.stack([pair[arm].scores[metric] for pair in pairs]) for arm in (0, 1))
    if metric == DISTANCE:
        both = np.isfinite(first) & np.isfinite(second)
        first, second = (np.where(both, values, np.nan) for values in (first, second))
    return paired_difference(first, second, study.facts.get("test_patients"))


def final_of_control(study: Study, count: int) -> float:
    """Mean over draws of the control's last smoothed value: what the others' steps are measured against."""
    finals = _finals(study, count)
    return float(np.mean(finals)) if finals else math.nan


def _finals(study: Study, count: int) -> list[float]:
    """The control's last smoothed value of every draw."""
    cells = study.of(study.config.control, count) if study.curved else []
    return [float(smooth(c.curve.values)[-1]) for c in cells]


def line_of_control(study: Study, count: int, q: float) -> float:
    """Height at a share of the way from chance to the control's final value.

    NaN where the control learnt nothing: its final value is not above chance; in a classification, where curves begin at
    chance and waver around it, not by two standard errors over draws.
    """
    chance = study.measures.chance
    reference = final_of_control(study, count)
    if not reference > chance:
        return math.nan
    finals = _finals(study, count)
    if study.config.classify and len(finals) > 1 and reference - chance < 2 * spread(finals) / math.sqrt(len(finals)):
        return math.nan
    return chance + q * (reference - chance)


def _convergence(study: Study, init: str, count: int) -> tuple[dict[float, list[float]], dict[float, SpeedUp]]:
    length, reached, speed = study.config.steps, dict[float, list[float]](), dict[float, SpeedUp]()
    for q in QUANTILES:
        line = line_of_control(study, count, q)
        if math.isnan(line):
            reached[q], speed[q] = [], UNKNOWN_SPEED_UP
            continue
        reached[q] = [steps_to(c.curve.steps, c.curve.values, line) for c in study.of(init, count)]
        pairs = [
            speed_up(
                steps_to(b.curve.steps, b.curve.values, line), steps_to(a.curve.steps, a.curve.values, line), length
            )
            for a, b in study.paired(init, count)
        ]
        speed[q] = median_speed_up(pairs)
    return reached, speed


def _ranks(study: Study, count: int, metric: str) -> dict[str, float]:
    """Mean rank over the draws (and cases) that every initialisation has."""
    inits = [i for i in study.inits if study.of(i, count)]
    seeds = set.intersection(*({c.cell.seed for c in study.of(i, count)} for i in inits)) if inits else set()
    if len(inits) < 2 or not seeds:
        return {}
    table = np.stack([_of_draws([c for c in study.of(i, count) if c.cell.seed in seeds], metric) for i in inits])
    return dict(zip(inits, (float(r) for r in mean_ranks(table, study.measures.larger_is_better(metric)))))


def _of_draws(cells: list[CellResult], metric: str) -> np.ndarray:
    """One value per draw and case, or per draw where a metric is of all cases together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cases without any label
        rows = [np.nanmean(c.scores[metric], axis=1) if c.scores else [c.means[metric]] for c in cells]
    found = np.concatenate(rows)
    # a case without any label has no overlap: nothing found in it, rightly, is the best that there is
    return found if metric == DISTANCE or not cells[0].scores else np.where(np.isnan(found), np.inf, found)
