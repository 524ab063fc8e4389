"""Probe encoders for targets: tables, a picture per target, and what it says in words."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnssl.evaluate.labels import TargetColumn
from nnssl.evaluate.probe.answers import out_of_fold
from nnssl.evaluate.probe.scores import METRICS, Scored, score, scored, shuffled
from nnssl.files import atomic_path, write_json

log = logging.getLogger(__name__)

REPEATS = 5
FEW = 30
"""Fewer patients than these say little, whatever the interval."""


@dataclass(frozen=True)
class Finding:
    """What one encoder says of one target.

    Attributes:
        target, kind, encoder: which.
        rows, groups: of cases and patients.
        scores: metric -> score.
        null_mean, null_high: main metric with the target shuffled among patients: mean and 95 % quantile.
        p: share of shuffles that are at least as good, counting the real one.
        per_group: value of another column -> (rows, main metric).
    """

    target: str
    kind: str
    encoder: str
    rows: int
    groups: int
    scores: dict[str, Scored]
    null_mean: float
    null_high: float
    p: float
    per_group: dict[str, tuple[int, float]]

    @property
    def main(self) -> str:
        """The main metric."""
        return METRICS[self.kind][0]

    @property
    def readable(self) -> bool:
        """Whether the encoder says more than random ones do, beyond chance."""
        return self.scores[self.main].gain_low > 0 and self.p <= 0.05


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
        return [out_of_fold(x, target.values, target.groups, target.kind, seed + r) for r in range(repeats)]

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
                null_mean=float(np.mean(null)) if null else float("nan"),
                null_high=float(np.quantile(null, 0.95)) if null else float("nan"),
                p=(1 + sum(v >= real for v in null)) / (1 + len(null)),
                per_group=_per_group(main, target, own, apart or {}),
            )
        )
    return found


def _null(x: np.ndarray, target: TargetColumn, metric: str, count: int, seed: int, name: str) -> list[float]:
    rng = np.random.default_rng([seed, 7])
    known, null = np.unique(target.values), []
    for _ in tqdm(range(count), desc=f"{target.name}: chance, {name}", dynamic_ncols=True):
        values = shuffled(target.values, target.groups, rng)
        null.append(score(metric, values, out_of_fold(x, values, target.groups, target.kind, seed), known))
    return null


def _per_group(
    metric: str, target: TargetColumn, answers: Sequence[np.ndarray], apart: Mapping[str, str]
) -> dict[str, tuple[int, float]]:
    known, found = np.unique(target.values), {}
    where = np.array([apart.get(c, "") for c in target.cases])
    for value in sorted(set(where) - {""}):
        rows = np.flatnonzero(where == value)
        found[value] = (
            len(rows),
            float(np.mean([score(metric, target.values[rows], a[rows], known) for a in answers])),
        )
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
            chance = (f"{f.null_high:.3f}", f"{f.p:.3f}") if metric == f.main else ("", "")
            lines.append(
                f"| {f.target} | {f.encoder} | {metric} | {s.value:.3f} [{s.low:.3f}, {s.high:.3f}] | {s.random:.3f} ± "
                f"{s.random_sd:.3f} | {s.gain:+.3f} [{s.gain_low:+.3f}, {s.gain_high:+.3f}] | {chance[0]} | {chance[1]} |"
            )
    lines.append("")
    for f in findings:
        lines.append(f"- {sentence(f)}")
        if f.per_group:
            lines.append("  " + ", ".join(f"{k}: {f.main} {v:.3f} ({n} cases)" for k, (n, v) in f.per_group.items()))
    return lines


def sentence(f: Finding) -> str:
    """What a finding says."""
    s = f.scores[f.main]
    if f.readable:
        said = f"says more of {f.target} than random encoders do ({f.main} {s.value:.3f} against {s.random:.3f})"
    elif f.p <= 0.05:
        said = (
            f"says something of {f.target} ({f.main} {s.value:.3f}), not clearly more than random ones ({s.random:.3f})"
        )
    else:
        said = f"says nothing of {f.target} beyond chance ({f.main} {s.value:.3f}, p {f.p:.2f})"
    few = f"; {f.groups} patients are few" if f.groups < FEW else ""
    return f"{f.encoder} {said}{few}."


def picture(target: TargetColumn, features: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """First two principal components of the features, coloured by the target."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(np.stack([features[c] for c in target.cases]))
    pca = PCA(2, random_state=0).fit(x)
    places, shares = pca.transform(x), pca.explained_variance_ratio_
    figure, axis = plt.subplots(figsize=(5.2, 4), layout="constrained")
    if target.kind == "regression":
        dots = axis.scatter(places[:, 0], places[:, 1], c=target.values, s=18, cmap="viridis")
        figure.colorbar(dots, label=target.name)
    else:
        for value in np.unique(target.values):
            of_value = places[target.values == value]
            axis.scatter(of_value[:, 0], of_value[:, 1], s=18, label=str(value))
        axis.legend(title=target.name, fontsize=8)
    axis.set_xlabel(f"first component ({100 * shares[0]:.0f} %)")
    axis.set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
    axis.set_title(title, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)
