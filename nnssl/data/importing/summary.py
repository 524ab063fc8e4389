"""An import in a few lines for the console."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from nnssl.data.importing.report import Report

NAMED = 3
"""So many examples of each reason are named."""

ALIKE = ", or other numbers"


def summary_lines(report: Report) -> Iterator[str]:
    """Found, taken, duplicates, left out and why, and what the pool looks like."""
    cases = list(report.cases.values())
    yield f"found        {len(report.found.items) + len(report.found.left_out)}: images, series and what looks like them"
    yield f"taken        {len(cases)} case(s): {_counts(str(c['kind']) for c in cases)}"
    linked = sum(bool(c["linked"]) for c in cases)
    if linked:
        yield f"             {linked} linked as they are, with the words in their headers; {len(cases) - linked} written"
    if report.duplicates:
        yield f"duplicates   {len(report.duplicates)}: {_named(report.duplicates_shown)}"
    if report.rejected:
        yield f"left out     {len(report.rejected)}"
        for reason, names in _alike((entry.reason, entry.shown) for entry in report.rejected):
            yield f"             {len(names)} x {reason}: {_named(names)}"
    if report.found.other_files:
        others = ", ".join(f"{n} {ending}" for ending, n in sorted(report.found.other_files.items()))
        yield f"other files  {others}"
    yield f"spacing      {_spacing([c['spacing'] for c in cases])} mm (z, y, x)"
    yield f"shape        {_range([c['shape'] for c in cases])} voxels (z, y, x)"
    yield f"orientation  {_counts(str(c['orientation']) for c in cases)}"
    yield f"voxel type   {_counts(str(c['dtype']) for c in cases)}"
    if report.subjects:
        yield f"subjects     {len(set(report.subjects.values()))} known, of {len(report.subjects)} case(s)"
    for line in report.pool_notes():
        yield f"WARNING: {line}"
    for note, names in _alike((note, name) for name, case in report.cases.items() for note in case["notes"]):
        yield f"WARNING: {_named(names)}: {note}"


def _alike(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Texts that differ in numbers only as one, the first, with everything it is said of; the most frequent first."""
    texts: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for text, name in pairs:
        key = re.sub(r"[\d.]+", "0", text)
        names.setdefault(key, []).append(name)
        if texts.setdefault(key, text).removesuffix(ALIKE) != text and not texts[key].endswith(ALIKE):
            texts[key] += ALIKE
    return sorted(((texts[key], some) for key, some in names.items()), key=lambda pair: -len(pair[1]))


def _named(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _counts(values: Iterable[str]) -> str:
    return ", ".join(f"{n} {value}" for value, n in Counter(values).most_common())


def _spacing(rows: Sequence[Sequence[float]]) -> str:
    low, high = [min(c) for c in zip(*rows)], [max(c) for c in zip(*rows)]
    return " x ".join(f"{a:.3g}" if round(a, 3) == round(b, 3) else f"{a:.3g}-{b:.3g}" for a, b in zip(low, high))


def _range(rows: Sequence[Sequence[int]]) -> str:
    low, high = [min(c) for c in zip(*rows)], [max(c) for c in zip(*rows)]
    return " x ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(low, high))
