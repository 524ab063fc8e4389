"""What a study says, in sentences; also when it says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnssl.evaluate.convergence import SpeedUp
from nnssl.evaluate.report.collect import Study
from nnssl.evaluate.report.compare import Comparison, line_of_control
from nnssl.evaluate.statistics import FEW_DRAWS

MAIN_Q = 0.95


def conclude(study: Study, found: Sequence[Comparison], metric: str) -> list[str]:
    """Plain sentences, the most important first."""
    lines = []
    others = [c for c in found if c.init != study.config.control and c.difference]
    if not others:
        lines.append(
            "There is nothing to compare yet: the control and another initialisation need a finished draw in common."
        )
    for count in study.config.counts:
        lines += [_sentence(study, c, metric) for c in others if c.count == count]
    larger = study.measures.larger_is_better(metric)
    gains = [c for c in others if (c.difference[metric].low > 0 if larger else c.difference[metric].high < 0)]
    if others and not any(c.difference[metric].draws >= FEW_DRAWS for c in gains):
        lines.insert(
            0,
            "No initialisation was better than the control beyond chance (every interval includes zero, lies on the "
            f"wrong side, is missing, or rests on fewer than {FEW_DRAWS} draws).",
        )
    draws = min((c.difference[metric].draws for c in others if c.difference[metric].draws), default=0) or min(
        (c.draws for c in found), default=0
    )
    if draws < FEW_DRAWS:
        lines.append(
            f"This rests on {draws} draw{'s' if draws != 1 else ''} of training cases: a first look. Draws differ more than "
            f"methods do with few labels; run {FEW_DRAWS} or more before concluding."
        )
    if study.missing or study.failed:
        lines.append(
            f"{len(study.results)} of {len(study.results) + len(study.missing) + len(study.failed)} trainings are in; "
            f"{len(study.failed)} failed. What is said above may change."
        )
    unchecked = [name for name, said in study.facts.get("leakage_check", {}).items() if said.startswith("not possible")]
    if unchecked:
        lines.append(
            f"Whether the pretraining of {', '.join(unchecked)} saw test cases could not be checked: its file or the "
            "target's fingerprint holds no digests."
        )
    return lines


def _sentence(study: Study, c: Comparison, metric: str) -> str:
    unit = study.unit + ("s" if c.count != 1 else "")
    d = c.difference[metric]
    name = study.measures.brief_name(metric)
    if math.isnan(d.mean):
        verdict = f"{name} is not defined in any test case"
    elif d.draws < FEW_DRAWS:  # their intervals are as wide as they must be, and yet: the next draws are another story
        in_draws = "one draw" if d.draws == 1 else f"{d.draws} draws, too few for a verdict"
        verdict = f"{d.mean:+.3f} {name} in {in_draws}"
    elif math.isnan(d.low):
        verdict = f"{d.mean:+.3f} {name}, of one patient on one side or both: too few for a verdict"
    elif d.excludes_zero:
        which = "higher" if d.mean > 0 else "lower"
        verdict = f"{which} {name} by {abs(d.mean):.3f} (95 % interval {d.low:+.3f} to {d.high:+.3f})"
    else:
        verdict = f"no clear difference in {name} ({d.mean:+.3f}, 95 % interval {d.low:+.3f} to {d.high:+.3f})"
    said = f"With {c.count} labelled {unit}, {c.init} against {study.config.control}: {verdict}"
    if not study.curved:
        return f"{said}."
    if math.isnan(line_of_control(study, c.count, MAIN_Q)):
        return f"{said}; the control learnt too little for a speed-up."
    of = "of the way from chance to the control's" if study.measures.chance else "of the control's"
    return f"{said}; {100 * MAIN_Q:.0f} % {of} final value {speed_words(c.speed[MAIN_Q])}."


def speed_words(speed: SpeedUp) -> str:
    """A speed-up as people say it, with the number of draws where it is not all of them."""
    if not speed.known:
        if not speed.reached and not speed.one:
            return "was reached by neither"
        return f"was reached in too few draws to compare{_of_draws(speed)}"
    low, high = speed.low, speed.high
    if f"{low:.2g}" == f"{high:.2g}":
        near = f"{max(low, 1 / low):.1f}" == "1.0"
        said = "as soon" if near else _sooner(low)
    elif high == math.inf:
        said = f"at least {_sooner(low)}" if low >= 1 else f"at most {_sooner(low)}"
    elif low == 0:
        said = f"at most {_sooner(high)}" if high >= 1 else f"at least {_sooner(high)}, or never"
    elif low >= 1:
        said = f"{low:.1f} to {_sooner(high)}"
    elif high <= 1:
        said = f"{1 / high:.1f} to {_sooner(low)}"
    else:
        said = f"between {_sooner(low)} and {_sooner(high)}"
    return said + _of_draws(speed)


def _sooner(ratio: float) -> str:
    return f"{ratio:.1f} times sooner" if ratio >= 1 else f"{1 / ratio:.1f} times later"


def _of_draws(speed: SpeedUp) -> str:
    return f" (both got there in {speed.reached} of {speed.draws} draws)" if speed.reached < speed.draws else ""


def speed_cell(speed: SpeedUp) -> str:
    """A speed-up for a table."""
    return "-" if not speed.known else speed_short(speed) + "x"


def speed_short(speed: SpeedUp) -> str:
    """The number, the bound, or the two between which it lies."""
    if speed.high == math.inf:
        return f">= {speed.low:.2g}"
    if speed.low == 0:
        return f"<= {speed.high:.2g}"
    low, high = f"{speed.low:.2g}", f"{speed.high:.2g}"
    return low if low == high else f"{low} to {high}"
