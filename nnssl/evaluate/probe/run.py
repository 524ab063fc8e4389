"""Probe encoders for targets: scores, tables, and what they say in words."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnssl.evaluate import LARGEST_SEED
from nnssl.evaluate.labels import TargetColumn
from nnssl.evaluate.probe.answers import out_of_fold
from nnssl.evaluate.probe.scores import METRICS, Scored, can_be_shuffled, score, scored, shuffled
from nnssl.files import atomic_path, write_json

log = logging.getLogger(__name__)

REPEATS = 5
FEW = 30
"""Fewer patients than these say little, whatever the interval."""


@dataclass(frozen=True)
class GroupScores:
    """What an encoder says of the target within one value of another column.

    Attributes:
        rows, groups: of cases and patients.
        scores: metric -> score, mean over repeats; without those that are not defined, as for one class only.
        random: the same of the random encoders, mean over them.
    """

    rows: int
    groups: int
    scores: dict[str, float]
    random: dict[str, float]


@dataclass(frozen=True)
class Finding:
    """What one encoder says of one target.

    Attributes:
        target, kind, encoder: which.
        rows, groups: of cases and patients.
        scores: metric -> score.
        null_mean, null_high: main metric with the target shuffled among patients: mean and 95 % quantile.
        p: share of shuffles that are at least as good, counting the real one. All three are None without shuffles, and where
            shuffles would leave most of the target as it is.
        per_group: value of another column -> scores.
    """

    target: str
    kind: str
    encoder: str
    rows: int
    groups: int
    scores: dict[str, Scored]
    null_mean: float | None
    null_high: float | None
    p: float | None
    per_group: dict[str, GroupScores]

    @property
    def main(self) -> str:
        """The main metric."""
        return METRICS[self.kind][0]

    @property
    def readable(self) -> bool:
        """Whether the encoder says more than random ones do, beyond chance."""
        return self.scores[self.main].gain_low > 0 and self.p is not None and self.p <= 0.05


def probe_target(
    target: TargetColumn,
    encoders: Mapping[str, Mapping[str, np.ndarray]],
    random: Sequence[Mapping[str, np.ndarray]],
    *,
    permutations: int,
    seed: int,
    apart: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Probe every encoder for a target, beside random encoders and a shuffled target.

    Args:
        target: values and groups of cases.
        encoders: name -> case -> features.
        random: case -> features, one mapping per random encoder.
        permutations: shuffles of the target, each probed with one repeat of the folds.
        seed: of folds and shuffles.
        apart: case -> value of a column, to score its values separately.
    """

    def answers(features: Mapping[str, np.ndarray], repeats: int = REPEATS) -> list[np.ndarray]:
        x = np.stack([features[c] for c in target.cases])
        return [
            out_of_fold(x, target.values, target.groups, target.kind, (seed + r) % (LARGEST_SEED + 1))
            for r in range(repeats)
        ]

    of_random = [answers(f) for f in tqdm(random, desc=f"{target.name}: random encoders", dynamic_ncols=True)]
    found = []
    for name, features in encoders.items():
        own = answers(features)
        scores = {m: scored(m, target.values, own, of_random, target.groups, seed) for m in METRICS[target.kind]}
        main = METRICS[target.kind][0]
        null = _null(np.stack([features[c] for c in target.cases]), target, main, permutations, seed, name)
        known = np.unique(target.values)
        real = score(main, target.values, own[0], known)
        found.append(
            Finding(
                target=target.name,
                kind=target.kind,
                encoder=name,
                rows=len(target.cases),
                groups=len(set(target.groups)),
                scores=scores,
                null_mean=float(np.mean(null)) if null else None,
                null_high=float(np.quantile(null, 0.95)) if null else None,
                p=(1 + sum(v >= real for v in null)) / (1 + len(null)) if null else None,
                per_group=_per_group(target, own, of_random, apart or {}),
            )
        )
    return found


def _null(x: np.ndarray, target: TargetColumn, metric: str, count: int, seed: int, name: str) -> list[float]:
    """Scores of shuffled targets; none where a shuffle leaves most of the target as it is."""
    if not can_be_shuffled(target.values, target.groups):
        return []
    rng = np.random.default_rng([seed, 7])
    known, null = np.unique(target.values), []
    for _ in tqdm(range(count), desc=f"{target.name}: chance, {name}", dynamic_ncols=True):
        values = shuffled(target.values, target.groups, rng)
        null.append(score(metric, values, out_of_fold(x, values, target.groups, target.kind, seed), known))
    return null


def _per_group(
    target: TargetColumn,
    answers: Sequence[np.ndarray],
    of_random: Sequence[Sequence[np.ndarray]],
    apart: Mapping[str, str],
) -> dict[str, GroupScores]:
    known, found = np.unique(target.values), {}
    where = np.array([apart.get(c, "") for c in target.cases])

    def within(rows: np.ndarray, given: Sequence[np.ndarray]) -> dict[str, float]:
        values = target.values[rows]
        scores = {m: np.mean([score(m, values, a[rows], known) for a in given]) for m in METRICS[target.kind]}
        return {m: float(s) for m, s in scores.items() if np.isfinite(s)}

    for value in sorted(set(where) - {""}):
        rows = np.flatnonzero(where == value)
        random = within(rows, [a for encoder in of_random for a in encoder])
        found[str(value)] = GroupScores(len(rows), len({target.groups[i] for i in rows}), within(rows, answers), random)
    return found


def write_findings(findings: Sequence[Finding], folder: Path, about: Mapping[str, Any]) -> list[str]:
    """Write results.csv, summary.json and report.md; returns the lines of the table and what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "results.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        fields = list(Scored.__dataclass_fields__)
        writer.writerow(["target", "encoder", "metric", *fields, "null_mean", "null_95", "p", "cases", "patients"])
        for f in findings:
            for metric, s in f.scores.items():
                null = (f.null_mean, f.null_high, f.p) if metric == f.main else ("", "", "")
                values = [getattr(s, k) for k in fields]
                writer.writerow([f.target, f.encoder, metric, *values, *null, f.rows, f.groups])
    write_json({"about": dict(about), "findings": [asdict(f) for f in findings]}, folder / "summary.json")
    lines = table(findings)
    with atomic_path(folder / "report.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def table(findings: Sequence[Finding]) -> list[str]:
    """A Markdown table, and a sentence per finding."""
    lines = [
        "| target | encoder | metric | score | random encoders | gain | shuffled, 95 % | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in findings:
        for metric, s in f.scores.items():
            chance = (_shown(f.null_high), _shown(f.p)) if metric == f.main else ("", "")
            lines.append(
                f"| {f.target} | {f.encoder} | {metric} | {s.value:.3f} [{s.low:.3f}, {s.high:.3f}] | {s.random:.3f} ± "
                f"{s.random_sd:.3f} | {s.gain:+.3f} [{s.gain_low:+.3f}, {s.gain_high:+.3f}] | {chance[0]} | {chance[1]} |"
            )
    lines.append("")
    for f in findings:
        lines.append(f"- {sentence(f)}")
    lines += _group_table(findings)
    return lines


def _shown(value: float | None) -> str:
    return "not available" if value is None else f"{value:.3f}"


def _group_table(findings: Sequence[Finding]) -> list[str]:
    rows = [
        f"| {f.target} | {f.encoder} | {value} | {g.groups} | {metric} | {g.scores[metric]:.3f} | {g.random[metric]:.3f} |"
        for f in findings
        for value, g in f.per_group.items()
        for metric in g.scores
    ]
    head = [
        "",
        "| target | encoder | within | patients | metric | score | random encoders |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*head, *rows] if rows else []


def sentence(f: Finding) -> str:
    """What a finding says."""
    s = f.scores[f.main]
    if f.readable:
        said = f"says more of {f.target} than random encoders do ({f.main} {s.value:.3f} against {s.random:.3f})"
    elif f.p is None:
        said = f"was not compared with chance for {f.target} ({f.main} {s.value:.3f}, random encoders {s.random:.3f})"
    elif f.p <= 0.05:
        said = (
            f"says something of {f.target} ({f.main} {s.value:.3f}), not clearly more than random ones ({s.random:.3f})"
        )
    else:
        said = f"says nothing of {f.target} beyond chance ({f.main} {s.value:.3f}, p {f.p:.2f})"
    few = f"; {f.groups} patients are few" if f.groups < FEW else ""
    return f"{f.encoder} {said}{few}."
