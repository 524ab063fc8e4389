"""From a study's folder to its report: page, figures, tables, JSON."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnssl import __version__
from nnssl.errors import NnsslError, did_you_mean
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


def write_report(folder: Path, metric: str | None = None) -> Path:
    """Write a study's report into its folder: `report.html`, `report.md`, `results.csv`, `summary.json`, `report/*.png|svg`.

    Args:
        folder: of the study, finished or not.
        metric: that figures and per-label tables show; default: the task's main one.

    Returns:
        The page.

    Raises:
        NnsslError: no study, nothing finished, or no such metric.
    """
    study = read_results(folder)
    known = list(study.measures.names)
    metric = metric or study.measures.main
    if metric not in known:
        raise NnsslError(f"--metric {metric}: there are {', '.join(known)}.{did_you_mean(metric, known)}")
    found = compare(study, metric)
    conclusion = conclude(study, found, metric)
    figures = _figures(study, found, metric)
    pictures = case_pictures(study, metric) if study.config.task == "segmentation" else []
    for i, picture in enumerate(pictures):
        with atomic_path(folder / "report" / f"case_{i + 1}.png") as path:
            path.write_bytes(picture.png)
    _write_csv(study, folder / "results.csv")
    write_json(_plain(study, found, conclusion, metric), folder / "summary.json")
    _write_text(markdown(study, found, conclusion, metric), folder / "report.md")
    _write_text(render(study, found, conclusion, figures, pictures, metric), folder / "report.html")
    return folder / "report.html"


def _figures(study: Study, found: Sequence[Comparison], metric: str) -> list[Figure]:
    drawn: list[tuple[str, str, Any]] = [
        ("labels", "Test cases against the number of labels; bands are the standard deviation over draws.",
         against_labels(study, found, metric)),
    ]  # fmt: skip
    for count in study.config.counts:
        if study.curved and any(study.of(init, count) for init in study.inits):
            of = "of the way from chance to the control's" if study.measures.chance else "of the control's"
            caption = (
                f"Learning curves with {count} labelled {study.unit}s: mean and single draws; dotted: "
                f"{100 * MAIN_Q:.0f} % {of} final value."
            )
            drawn.append((f"curves_{count}", caption, learning_curves(study, count)))
    bars = speed_bars(study, found)
    if bars is not None:
        drawn.append(
            (
                "speed",
                "How much sooner, median over draws; a line where draws in which one never got there leave it open.",
                bars,
            )
        )
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
    return template.render(
        style=style(),
        study=study,
        version=__version__,
        conclusion=conclusion,
        figures=figures,
        comparisons=found,
        metric=metric,
        others=[name for name in study.measures.names if name != metric],
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
    trained = str(facts.get("settings", {}).get("schedule", ""))
    if study.config.classify is not None:
        trained = study.config.classify.method if study.config.stepwise else "frozen"
        kinds["scratch"] = "none (from scratch)" if study.config.stepwise else "none (untrained encoder)"
    coverage = [
        c.load_report["encoder_coverage"] for c in study.results.values() if c.cell.init == name and c.load_report
    ]
    return {
        "name": name,
        "weights": kinds.get(facts.get("kind", ""), _file_of(facts)),
        "pretraining": ", ".join(f"{k} {v}" for k, v in origin.items() if k in ("method", "steps", "seed", "cases")),
        "cost": _cost(study, facts),
        "settings": ", ".join([trained, *(f"{k} {v}" for k, v in settings.items())]),
        "coverage": f"{100 * min(coverage):.0f} %" if coverage else "",
        "leakage": study.facts.get("leakage_check", {}).get(name, ""),
    }


def _cost(study: Study, facts: Mapping[str, Any]) -> str:
    """A pretraining in trainings of the study, by the crops that both see."""
    crops, own = facts.get("crops"), study.facts.get("batch_size")
    if not (crops and own):
        return ""
    each = " for each draw" if "sha256_per_seed" in facts else ""
    return f"{crops} crops, as in {crops / (study.config.steps * own):.1f} trainings{each}"


def _file_of(facts: Mapping[str, Any]) -> str:
    """Which bytes; one pretraining for all draws is one sample, and the reader should see it."""
    several = facts.get("sha256_per_seed", {})
    if several:
        shown = ", ".join(f"{seed}: {digest[:12]}" for seed, digest in several.items())
        return f"{facts['file_name']}, a pretraining for each seed, sha256 {shown}"
    return f"{facts.get('file_name', '')}, one pretraining, sha256 {facts.get('sha256', '')[:12]}"


def markdown(study: Study, found: Sequence[Comparison], conclusion: Sequence[str], metric: str) -> str:
    """The table for papers and READMEs."""
    c, m = study.config, study.measures
    length = f" {c.steps} steps," if c.stepwise else ""
    brief = [k for k in (m.main, *m.brief) if k != metric]
    columns = [f"{study.unit}s", "initialisation", "draws", m.names[metric], "difference", *map(m.brief_name, brief)]
    columns += ["speed-up to 95 %"] * study.curved + ["rank"]
    lines = [
        f"{c.name}: {c.dataset}, {c.configuration},{length} {len(c.test)} test {'images' if c.classify else 'cases'}; "
        "mean ± SD over draws, paired difference with its 95 % interval.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for row in found:
        cells = [str(row.count), row.init, str(row.draws), words.plus_minus(row.score[metric], row.sd[metric])]
        cells += [words.interval(row.difference.get(metric))]
        cells += [words.decimals(row.score[k], m.digits(k)) for k in brief]
        cells += [words.speed(row.speed, row.init == c.control)] * study.curved + [words.decimals(row.rank, 2)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in conclusion)]) + "\n"


def _write_csv(study: Study, target: Path) -> None:
    """One row per training, case and label; of a classification per training."""
    names = list(study.measures.names)
    by_case = study.config.task == "segmentation"
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["init", "count", "seed", *(["case", "label"] if by_case else []), *names])
        for cell, result in study.results.items():
            where = [cell.init, cell.count, cell.seed]
            if not by_case:
                writer.writerow([*where, *(_field(result.means[m]) for m in names)])
                continue
            for i, case in enumerate(study.config.test):
                for j, label in enumerate(study.labels):
                    writer.writerow([*where, case, label, *(_field(result.scores[m][i, j]) for m in names)])


def _field(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


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
