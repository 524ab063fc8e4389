"""The learning curve of a fine-tuning."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnssl.files import atomic_path


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        step: optimiser steps so far.
        seconds: since the start.
        train_loss: mean since the last evaluation; NaN before the first step.
        score: on the validation images: balanced accuracy, or the coefficient of determination (R²) of a quantity.
        loss: on the validation images; the lower one wins among equal scores.
    """

    step: int
    seconds: float
    train_loss: float
    score: float
    loss: float


Follow = Callable[[Sequence[Point]], None]
"""Told of the curve so far after every evaluation."""


def write_curve(points: Sequence[Point], path: Path) -> None:
    """Write a learning curve: step, seconds, train_loss, score and loss on the validation images."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "train_loss", "score", "loss"])
        for p in points:
            values = (f"{v:.6g}" if math.isfinite(v) else "" for v in (p.train_loss, p.score, p.loss))
            writer.writerow([p.step, p.seconds, *values])
