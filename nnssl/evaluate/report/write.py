"""From a study's folder to its report: page, figures, tables, JSON."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnssl import __version__
from nnssl.errors import NnsslError, did_you_mean
from nnssl.evaluate.metrics import METRICS
from nnssl.evaluate.report import words
from nnssl.evaluate.report.collect import Study, read_results
from nnssl.evaluate.report.compare import Comparison, compare
from nnssl.evaluate.report.conclusion import MAIN_Q, conclude
from nnssl.evaluate.report.figures import against_labels, learning_curves, speed_bars
from nnssl.evaluate.report.pictures import Picture, case_pictures
from nnssl.files import atomic_path, write_json
from nnssl.inspect.figures import svg_of
from nnssl.inspect.page import style


@dataclass(frozen=True)
class Figure:
    """A figure of the page; its files lie beside the page under its name."""

    name: str
    caption: str
    svg: Any


def write_report(folder: Path, metric: str = "dice") -> Path:
    """Write a study's report into its folder: `report.html`, `report.md`, `results.csv`, `summary.json`, `report/*.png|svg`.

    Args:
        folder: of the study, finished or not.
        metric: that figures and per-label tables show.

    Returns:
        The page.

    Raises:
        NnsslError: no study, nothing finished, or no such metric.
    """
    if metric not in METRICS:
        raise NnsslError(f"--metric {metric}: there are {', '.join(METRICS)}.{did_you_mean(metric, METRICS)}")
    study = read_results(folder)
    found = compare(study, metric)
    conclusion = conclude(study, found, metric)
    figures = _figures(study, found, metric)
    pictures = case_pictures(study, metric)
    for i, picture in enumerate(pictures):
        with atomic_path(folder / "report" / f"case_{i + 1}.png") as path:
            path.write_bytes(picture.png)
    _write_csv(study, folder / "results.csv")
    write_json(_plain(study, found, conclusion, metric), folder / "summary.json")
    _write_text(markdown(study, found, conclusion), folder / "report.md")
    _write_text(render(study, found, conclusion, figures, pictures, metric), folder / "report.html")
    return folder / "report.html"


def _figures(study: Study, found: Sequence[Comparison], metric: str) -> list[Figure]:
    drawn: list[tuple[str, str, Any]] = [
        ("labels", "Test cases against the number of labels; bands are the standard deviation over draws.",
         against_labels(study, found, metric)),
    ]  # fmt: skip
    for count in study.config.counts:
        if any(study.of(init, count) for init in study.inits):
            caption = (
                f"Learning curves with {count} labelled {study.config.unit}s: mean and single draws; dotted: "
                f"{100 * MAIN_Q:.0f} % of the control's final value."
            )
            drawn.append((f"curves_{count}", caption, learning_curves(study, count)))
    bars = speed_bars(study, found)
    if bars is not None:
        drawn.append(("speed", "How much sooner; > and < mark bounds, where one of the two never got there.", bars))
    made = []
    for name, caption, figure in drawn:
        for ending in ("png", "svg"):
            with atomic_path(study.folder / "report" / f"{name}.{ending}") as path:
                figure.savefig(path, format=ending, dpi=160, facecolor="white")
        made.append(Figure(name, caption, _markup(svg_of(figure))))
    return made


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # of our own figures; matplotlib escapes the names in it


def render(
    study: Study,
    found: Sequence[Comparison],
    conclusion: Sequence[str],
    figures: Sequence[Figure],
    pictures: Sequence[Picture],
    metric: str,
) -> str:
    """The page. Names come from users' files: the template escapes everything but our own SVG."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {**words.FILTERS, "data_uri": _data_uri}
    template = environment.from_string(files("nnssl.evaluate.report").joinpath("report.html.j2").read_text("utf-8"))
    shown = [{**vars(c), "difference": {"dice": c.difference.get("dice")}} for c in found]
    return template.render(
        style=style(),
        study=study,
        version=__version__,
        conclusion=conclusion,
        figures=figures,
        comparisons=shown,
        metric=metric,
        pictures=pictures,
        inits=[describe(study, name) for name in study.inits],
        remarks=sorted({r for c in study.results.values() for r in c.load_report.get("remarks", ())}),
        failed={cell.name: reason for cell, reason in study.failed.items()},
    )


def describe(study: Study, name: str) -> dict[str, str]:
    """An initialisation in words: weights, how they were pretrained, how they are trained further."""
    facts = study.facts["inits"].get(name, {})
    origin = facts.get("provenance", {})
    settings = {k: v for k, v in facts.get("settings", {}).items() if k != "schedule"}
    kinds = {"scratch": "none (from scratch)", "nnunet": "none (stock nnU-Net)"}
    coverage = [
        c.load_report["encoder_coverage"] for c in study.results.values() if c.cell.init == name and c.load_report
    ]
    return {
        "name": name,
        "weights": kinds.get(
            facts.get("kind", ""), f"{facts.get('file_name', '')}, sha256 {facts.get('sha256', '')[:12]}"
        ),
        "pretraining": ", ".join(f"{k} {v}" for k, v in origin.items() if k in ("method", "steps", "seed", "cases")),
        "settings": ", ".join(
            [str(facts.get("settings", {}).get("schedule", "")), *(f"{k} {v}" for k, v in settings.items())]
        ),
        "coverage": f"{100 * min(coverage):.0f} %" if coverage else "",
        "leakage": study.facts.get("leakage_check", {}).get(name, ""),
    }


def markdown(study: Study, found: Sequence[Comparison], conclusion: Sequence[str]) -> str:
    """The table for papers and READMEs."""
    c = study.config
    lines = [
        f"{c.name}: {c.dataset}, {c.configuration}, {c.steps} steps, {len(c.test)} test cases; mean ± SD over draws, paired "
        "difference with 95 % bootstrap interval.",
        "",
        f"| {c.unit}s | initialisation | draws | Dice | difference | HD95 (mm) | surface Dice | speed-up to 95 % | rank |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row.count} | {row.init} | {row.draws} | {words.plus_minus(row.score['dice'], row.sd['dice'])} | "
            f"{words.interval(row.difference.get('dice'))} | {words.decimals(row.score['hd95'], 1)} | "
            f"{words.decimals(row.score['nsd'], 3)} | {words.speed(row.speed, row.init == c.control)} | "
            f"{words.decimals(row.rank, 2)} |"
        )
    return "\n".join([*lines, "", *(f"- {line}" for line in conclusion)]) + "\n"


def _write_csv(study: Study, target: Path) -> None:
    """One row per training, case and label."""
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["init", "count", "seed", "case", "label", *METRICS])
        for cell, result in study.results.items():
            for i, case in enumerate(study.config.test):
                for j, label in enumerate(study.labels):
                    values = [result.scores[m][i, j] for m in METRICS]
                    shown = ["" if v != v else f"{v:.6g}" for v in values]
                    writer.writerow([cell.init, cell.count, cell.seed, case, label, *shown])


def _plain(study: Study, found: Sequence[Comparison], conclusion: Sequence[str], metric: str) -> Any:
    content = {
        "name": study.config.name,
        "metric": metric,
        "conclusion": list(conclusion),
        "finished": len(study.results),
        "failed": {cell.name: reason for cell, reason in study.failed.items()},
        "missing": len(study.missing),
        "comparisons": [c.as_dict() for c in found],
    }
    return _finite(content)


def _finite(value: Any) -> Any:
    """Plain values for strict JSON: no NaN, no infinity, keys as text."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_text(text: str, target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
