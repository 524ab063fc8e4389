"""The summary of a dataset for the console, and the words it shares with the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnssl.inspect.cases import HEADERS, UNNAMED, KnownCase
from nnssl.inspect.facts import Facts
from nnssl.inspect.plan_facts import ConfigurationFacts
from nnssl.inspect.words import bytes_as_text, number, percent, size_of, times

LISTED = 10
"""Outliers and skipped cases that the console names; the page and the fingerprint have all."""


def summary(facts: Facts) -> list[str]:
    """Lines for the console."""
    lines = [facts.name, *(f"  {label:<12} {text}" for label, text in [*headline(facts), *ranges(facts)])]
    for configuration in facts.plan.configurations if facts.plan else ():
        lines.append(f"  {configuration.name:<12} {plan_line(configuration)}")
    imported = import_lines(facts.import_report)
    if imported:
        lines += ["import:", *(f"  {label:<12} {text}" for label, text in imported)]
    for title, entries in (("outliers", outlier_lines(facts)), ("skipped", facts.skipped)):
        if entries:
            lines.append(f"{title} ({len(entries)}):")
            lines += [f"  {name}: {text}" for name, text in list(entries.items())[:LISTED]]
        if len(entries) > LISTED:
            lines.append(f"  and {len(entries) - LISTED} more")
    stale = [c for c in facts.plan.configurations if c.cases and c.problem] if facts.plan else []
    lines += [f"note: {note}" for note in [*facts.notes, *(f"{c.name}: {c.problem}" for c in stale)]]
    return lines


def headline(facts: Facts) -> list[tuple[str, str]]:
    """What stands first: label and text."""
    counts = f"{len(facts.cases):,} usable, {len(facts.skipped):,} skipped"
    if facts.source == HEADERS:
        counts = (
            f"{len(facts.cases):,} with a readable header, {len(facts.skipped):,} without; voxels are not checked yet"
        )
    rows = [
        ("cases", counts),
        ("labels", _labels(facts)),
        ("channels", ", ".join(facts.channels)),
    ]
    if facts.reader:
        rows.append(("reader", facts.reader))
    if facts.raw:
        rows.append(("raw files", bytes_as_text(facts.raw_bytes)))
    rows.append(("known from", f"{facts.source}{f', made {facts.made}' if facts.made else ''}"))
    plan = facts.plan
    if plan:
        like = f", like {plan.like}" if plan.like else ""
        rows.append(("plans", f"{plan.name} by {plan.planner}{like}, made {plan.made}"))
        folders = {folder for c in plan.configurations for folder in c.data_folders if c.cases}
        size = sum(size_of(folder) for folder in folders)
        rows.append(("preprocessed", bytes_as_text(size) if folders else "not yet"))
    return rows


def _labels(facts: Facts) -> str:
    if not facts.classes:
        return "none: an unlabelled pool"
    classes = f"classes {', '.join(facts.classes)}"
    if facts.labelled is None:
        return classes
    return f"{facts.labelled:,} cases labelled, {len(facts.cases) - facts.labelled:,} unlabelled; {classes}"


def ranges(facts: Facts) -> list[tuple[str, str]]:
    """Spacing, shape, foreground and intensities: median (least to most)."""
    rows = []
    for label, unit, get in (("spacing", "mm", _spacing), ("shape", shape_unit(facts), _shape)):
        values = table(facts.cases, get)
        if values.size:
            flat = values.shape[1] == 3 and is_flat(facts.cases)
            axes = list(zip("ZYX"[-values.shape[1] :], values.T))[1 if flat else 0 :]
            rows.append((label, ", ".join(f"{axis} {_range(v)}" for axis, v in axes) + f" {unit}"))
    shares = [c.foreground_share for c in facts.cases if c.foreground_share is not None]
    if shares:
        text = f"{percent(float(np.median(shares)))} of the voxels ({percent(min(shares))} to {percent(max(shares))})"
        rows.append(("foreground", text))
    for channel, properties in zip(facts.channels, facts.pool_intensity.values()):
        rows.append((f"{channel[:12]}", intensity_words(properties)))
    for label, get_text in (("voxel type", _dtype), ("orientation", _orientation)):
        counts = tally(facts.cases, get_text)
        if counts:
            rows.append((label, ", ".join(f"{value} ({n:,})" for value, n in counts)))
    return rows


def intensity_words(properties: Mapping[str, float]) -> str:
    """Percentiles of the pool in words."""
    low, middle, high = (number(float(properties[k])) for k in ("percentile_00_5", "median", "percentile_99_5"))
    return f"intensity in the foreground {low} to {high} (0.5 to 99.5 %), median {middle}"


def shape_unit(facts: Facts) -> str:
    """Shapes are of the raw images, but an older fingerprint knows only what is left after cropping."""
    return "voxels after cropping" if facts.source == UNNAMED else "voxels"


def plan_line(c: ConfigurationFacts) -> str:
    """A configuration in one line."""
    ready = f"{c.cases:,} cases preprocessed" if c.cases else "not preprocessed"
    if c.failed:
        ready += f", {len(c.failed):,} failed"
    return (
        f"patch {times(c.patch)} voxels = {times(round(mm) for mm in c.patch_mm)} mm, {percent(c.coverage)} of the median "
        f"{'slice' if len(c.patch) == 2 else 'case'}; spacing {times(c.spacing)} mm, batch {c.batch_size}, "
        f"{'/'.join(c.normalization)}; {ready}"
    )


def outlier_lines(facts: Facts) -> dict[str, str]:
    """Case -> what is unusual about it."""
    return {name: "; ".join(sentences) for name, sentences in facts.outliers.items()}


def table(cases: Sequence[KnownCase], get: Callable[[KnownCase], Sequence[float] | None]) -> np.ndarray:
    """(cases, axes) of what is known of cases with as many axes as most have."""
    rows = [values for case in cases if (values := get(case))]
    if not rows:
        return np.empty((0, 3))
    axes = Counter(len(r) for r in rows).most_common(1)[0][0]
    return np.array([r for r in rows if len(r) == axes], dtype=float)


def is_flat(cases: Sequence[KnownCase]) -> bool:
    """Whether all images are 2D, which have one slice and no spacing across it."""
    shapes = [c.shape for c in cases if c.shape]
    return bool(shapes) and all(s[0] == 1 for s in shapes)


def tally(cases: Sequence[KnownCase], get: Callable[[KnownCase], str | None]) -> list[tuple[str, int]]:
    """Values and how many cases have each, the most frequent first; empty where nothing is known."""
    values = [get(case) for case in cases]
    return [(str(v or "not known"), n) for v, n in Counter(values).most_common()] if any(values) else []


def properties_table(facts: Facts) -> list[tuple[str, list[tuple[str, int]]]]:
    """Voxel types and orientations with their numbers of cases."""
    rows = [("voxel type on disk", tally(facts.cases, _dtype)), ("orientation", tally(facts.cases, _orientation))]
    return [(label, counts) for label, counts in rows if counts]


def import_lines(report: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What nnssl_import took and left out, from its import_report.json: label and text."""
    if report is None:
        return []
    try:
        return _import_rows(report)
    except (AttributeError, TypeError, ValueError):  # written by another version, or by hand
        return [("report", "of a form that this version does not know")]


def _import_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    if report.get("nnssl_import") != 1:
        raise ValueError("another version")
    cases = report.get("cases", {})
    kinds = Counter(str(case.get("kind")) for case in cases.values())
    reasons = Counter(str(entry.get("reason")) for entry in report.get("left_out", []))
    remarks = Counter(str(note) for case in cases.values() for note in case.get("notes", []))
    rows = [
        ("taken", f"{len(cases):,} cases: {_counted(kinds)}"),
        ("testing cases", f"{len(report.get('testing_cases', {})):,}"),
        ("duplicates", f"{len(report.get('duplicates', [])):,} left out"),
        ("left out", f"{sum(reasons.values()):,}: {_counted(reasons)}"),
        ("other files", _counted(Counter(report.get("other_files", {})))),
        ("remarks", _counted(remarks)),
        ("notes", "; ".join(str(note) for note in report.get("notes", [])[:LISTED])),
    ]
    return [(label, text) for label, text in rows if text and not text.startswith("0")]


def _counted(counts: Counter[str]) -> str:
    """The most frequent words, each with its number."""
    named = "; ".join(f"{word} ({n:,})" for word, n in counts.most_common(LISTED))
    return named + ("; ..." if len(counts) > LISTED else "")


def _range(values: np.ndarray) -> str:
    low, middle, high = float(values.min()), float(np.median(values)), float(values.max())
    return number(middle) if low == high else f"{number(middle)} ({number(low)} to {number(high)})"


def _spacing(case: KnownCase) -> Sequence[float] | None:
    return case.spacing


def _shape(case: KnownCase) -> Sequence[float] | None:
    return case.shape


def _dtype(case: KnownCase) -> str | None:
    return case.dtype


def _orientation(case: KnownCase) -> str | None:
    return case.orientation
