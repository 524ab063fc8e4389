"""Scores of a classifier, with bootstrap intervals over patients, and its files."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.preprocessing import label_binarize

from nnssl.evaluate.classify import resampled
from nnssl.evaluate.labels import Kind
from nnssl.files import atomic_path, write_json

RESAMPLES = 1000


def all_scores(values: np.ndarray, answers: np.ndarray, kind: Kind, known: np.ndarray) -> dict[str, float]:
    """Every score of a set of answers; class means are unweighted (macro)."""
    if kind == "regression":
        spread = np.ptp(values) > 0 and np.ptp(answers) > 0
        return {
            "r2": float(metrics.r2_score(values, answers)) if np.ptp(values) > 0 else float("nan"),
            "mae": float(metrics.mean_absolute_error(values, answers)),
            "correlation": float(np.corrcoef(values, answers)[0, 1]) if spread else float("nan"),
        }
    said = known[answers.argmax(1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "balanced_accuracy": float(metrics.balanced_accuracy_score(values, said)),
            "accuracy": float(metrics.accuracy_score(values, said)),
            "f1": float(metrics.f1_score(values, said, average="macro", zero_division=0)),
            "precision": float(metrics.precision_score(values, said, average="macro", zero_division=0)),
        }
        truth = label_binarize(values, classes=known)
        truth = np.hstack([1 - truth, truth]) if len(known) == 2 else truth
        there = np.asarray(truth.any(0) & ~truth.all(0))
        columns = [1] if len(known) == 2 and there[1] else list(np.flatnonzero(there))
        for name, function in (("auc", metrics.roc_auc_score), ("average_precision", metrics.average_precision_score)):
            values_of = [function(truth[:, c], answers[:, c]) for c in columns]
            found[name] = float(np.mean(values_of)) if values_of else float("nan")
    return found


def intervals(
    values: np.ndarray, answers: np.ndarray, groups: Sequence[str], kind: Kind, known: np.ndarray, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of every score; patients are resampled. NaN where no resample has the score."""
    drawn = resampled.scores(values, answers, kind, known, resampled.resamples(groups, RESAMPLES, seed))
    return {k: _middle(v[np.isfinite(v)]) for k, v in drawn.items()}


def _known(value: float) -> float | None:
    """JSON has no NaN: an undefined score, such as the AUC of one class, is null."""
    return value if math.isfinite(value) else None


def _middle(values: np.ndarray) -> tuple[float, float]:
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def write_predictions(
    path: Path,
    names: Sequence[str],
    answers: np.ndarray,
    kind: Kind,
    known: np.ndarray,
    groups: Sequence[str] | None = None,
    values: np.ndarray | None = None,
) -> None:
    """Write a table: case, group and target where known, prediction, and `p_CLASS` of every class."""
    classes = kind == "classes"
    extra = [(k, v) for k, v in (("group", groups), ("target", values)) if v is not None]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *(k for k, _ in extra), "prediction", *([f"p_{c}" for c in known] if classes else [])])
        for i, name in enumerate(names):
            own = [f"{p:.6g}" for p in answers[i]] if classes else []
            said = known[answers[i].argmax()] if classes else f"{answers[i]:.6g}"
            writer.writerow([name, *(v[i] for _, v in extra), said, *own])


def write_results(
    folder: Path,
    names: Sequence[str],
    groups: Sequence[str],
    values: np.ndarray,
    answers: np.ndarray,
    kind: Kind,
    known: np.ndarray,
    about: Mapping[str, Any],
) -> list[str]:
    """Write predictions.csv, scores.json, report.md and, for classes, confusion.png; returns the table's lines."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = kind == "classes"
    write_predictions(folder / "predictions.csv", names, answers, kind, known, groups, values)
    found, around = all_scores(values, answers, kind, known), intervals(values, answers, groups, kind, known)
    table = {
        "scores": {k: _known(v) for k, v in found.items()},
        "intervals": {k: [_known(x) for x in v] for k, v in around.items()},
    }
    write_json({**table, **about}, folder / "scores.json")
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {k} | {v:.3f} | {around[k][0]:.3f} to {around[k][1]:.3f} |" for k, v in found.items()]
    lines += [
        "",
        f"{len(names)} images of {len(set(groups))} patients"
        + (f", classes {', '.join(map(str, known))}" if classes else ""),
    ]
    with atomic_path(folder / "report.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if classes:
        _confusion(values, known[answers.argmax(1)], known, folder / "confusion.png")
    return lines


def _confusion(values: np.ndarray, said: np.ndarray, known: np.ndarray, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(1.5 + 0.6 * len(known), 1.5 + 0.6 * len(known)), layout="constrained")
    metrics.ConfusionMatrixDisplay.from_predictions(values, said, labels=known, ax=axis, colorbar=False, cmap="Blues")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
