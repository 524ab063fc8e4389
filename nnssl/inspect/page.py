"""The page: facts, figures and pictures in one HTML file that needs no network and runs no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnssl import __version__
from nnssl.errors import NnsslError
from nnssl.files import atomic_path
from nnssl.inspect import figures, summary, words
from nnssl.inspect.choose import Choice, choose_cases
from nnssl.inspect.facts import Facts
from nnssl.inspect.patch_drawing import draw_patch
from nnssl.inspect.plan_facts import ConfigurationFacts, PlanFacts
from nnssl.inspect.thumbnails import Order, Thumbnail, draw_cases

TEMPLATE = "page.html.j2"
LISTED = 500
"""Rows of a table of cases; the files the page names have all."""


@dataclass(frozen=True)
class Views:
    """The picture of crops and views, or why there is none."""

    configuration: str = ""
    method: str = ""
    png: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class Card:
    """A case of the grid: the choice, its pictures, or why there are none."""

    choice: Choice
    thumbnail: Thumbnail | None
    problem: str
    outlier: bool


def draw_cards(facts: Facts, count: int, processes: int) -> list[Card]:
    """Choose cases and draw them; only these are read.

    Args:
        facts: of the dataset.
        count: about how many.
        processes: worker processes, each with one image in memory.
    """
    choices = choose_cases(facts, count)
    try:
        reader = facts.reader or _guess_reader(facts, [c.name for c in choices])
    except NnsslError as error:  # no reader for any of them
        return [Card(c, None, str(error), c.name in facts.outliers) for c in choices]
    orders = [Order(facts.raw[c.name], c.large) for c in choices]
    drawn, failed = draw_cases(orders, reader, facts.channels, processes)
    return [Card(c, drawn.get(c.name), failed.get(c.name, ""), c.name in facts.outliers) for c in choices]


def _guess_reader(facts: Facts, names: Sequence[str]) -> str:
    """The reader nnU-Net would take; before there is a fingerprint that says so."""
    from nnssl.data.folders import nnunet_folder, read_dataset_json
    from nnssl.planners.fingerprint import choose_reader

    if not names:
        return ""
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_raw") / facts.name / "dataset.json")
    return choose_reader([facts.raw[n] for n in names], dataset_json).__name__


def write_page(target: Path, facts: Facts, cards: Sequence[Card], views: Views) -> None:
    """Write the page, complete or not at all."""
    html = render(facts, cards, views)
    try:
        with atomic_path(target) as path:
            path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise NnsslError(f"{target} cannot be written ({error.strerror}): name another file with -o") from error


def render(facts: Facts, cards: Sequence[Card], views: Views) -> str:
    """The page as text. Names and reasons come from users' files: the template escapes everything but our own SVG."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "data_uri": _data_uri, "times": words.times, "percent": words.percent, "number": words.number,
    }  # fmt: skip
    template = environment.from_string(files("nnssl.inspect").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    outliers = summary.outlier_lines(facts)
    return template.render(
        style=style(),
        facts=facts,
        version=__version__,
        headline=summary.headline(facts),
        ranges=summary.ranges(facts),
        large=[c for c in cards if c.choice.large],
        small=[c for c in cards if not c.choice.large],
        shown=len(cards),
        hidden_outliers=len(facts.outliers) - sum(c.outlier for c in cards),
        distributions=_distributions(facts),
        intensities=_intensities(facts),
        properties=summary.properties_table(facts),
        tables=[_shortened("Outliers", outliers), _shortened("Skipped cases", facts.skipped)],
        import_rows=summary.import_lines(facts.import_report),
        drawings={c.name: _markup(draw_patch(c)) for c in facts.plan.configurations} if facts.plan else {},
        configurations=facts.plan.configurations if facts.plan else (),
        axes=_axes(facts.plan),
        views=views,
    )


def style() -> Any:
    """The style sheet of nnssl's pages."""
    return _markup(files("nnssl.inspect").joinpath("page.css").read_text(encoding="utf-8"))


def _distributions(facts: Facts) -> list[Any]:
    """Histograms of spacing and shape per axis, and of the foreground."""
    panels = []
    flat = summary.is_flat(facts.cases)
    spacing = summary.table(facts.cases, lambda c: c.spacing)
    shape = summary.table(facts.cases, lambda c: c.shape)
    for quantity, values in (("spacing", spacing), (summary.shape_unit(facts), shape)):
        first = 1 if flat and values.shape[1] == 3 else 0
        for axis in range(first, values.shape[1] if len(values) else 0):
            name = ("Z (slices)", "Y (rows)", "X (columns)")[axis]
            is_spacing = quantity == "spacing"
            marks = _planned_spacing(facts.plan, axis) if is_spacing else {}
            label = f"spacing along {name} (mm)" if is_spacing else f"{quantity} along {name}"
            panels.append(
                _markup(figures.distribution(values[:, axis].tolist(), label, marks, logarithmic=not is_spacing))
            )
    shares = [100 * c.foreground_share for c in facts.cases if c.foreground_share is not None]
    if shares:
        panels.append(_markup(figures.distribution(shares, "voxels in the body (%)")))
    return panels


def _planned_spacing(plan: PlanFacts | None, axis: int) -> dict[str, float]:
    found: dict[float, list[str]] = {}
    for c in plan.configurations if plan else ():
        spacing = plan.image_spacing(c) if plan else {}
        if axis in spacing:
            found.setdefault(spacing[axis], []).append(c.name)
    return {f"planned for {', '.join(names)}": value for value, names in found.items()}


def _intensities(facts: Facts) -> list[Any]:
    """Per channel the fan over cases, and for CT the histogram of Hounsfield units."""
    panels = []
    for c, name in enumerate(facts.channels):
        unit = "HU" if str(c) in facts.ct_histogram else "stored values"
        known = [case.intensity[c] for case in facts.cases if len(case.intensity) > c]
        if known:
            panels.append(_markup(figures.intensity_fan(known, name, unit)))
        if str(c) in facts.ct_histogram:
            clip = facts.plan.clip.get(c) if facts.plan else None
            panels.append(_markup(figures.ct_histogram(facts.ct_histogram[str(c)], clip)))
    return panels


def _shortened(title: str, rows: Mapping[str, str]) -> dict[str, Any]:
    return {"title": title, "count": len(rows), "rows": list(rows.items())[:LISTED]}


def _axes(plan: PlanFacts | None) -> str:
    """Order of the axes in the plans, when it is not the images'."""
    order = plan.axes if plan else (0, 1, 2)
    return "" if order == (0, 1, 2) else ", ".join("ZYX"[a] for a in order)


def default_configuration(configurations: Sequence[ConfigurationFacts]) -> ConfigurationFacts | None:
    """The one whose crops are shown: preprocessed if any is, 3D before 2D."""
    order = {"3d_fullres": 0, "2d": 1, "3d_lowres": 2}
    ranked = sorted(configurations, key=lambda c: (c.cases == 0, bool(c.problem), order.get(c.name, 3)))
    return ranked[0] if ranked else None


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by our own figures, which escape what they write
