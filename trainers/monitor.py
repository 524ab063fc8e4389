"""What a person sees of a run: the bar, metrics.jsonl, progress.png."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnssl.trainers.saving import tolerated
from tqdm import tqdm

from nnssl.files import atomic_path

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")


class Monitor:
    """One bar over all steps of a run, and its files.

    Args:
        folder: run folder.
        total: steps of the whole run.
        done: steps already done (a resumed run).
        batch_size: crops per step over all ranks.
        enabled: False on all ranks but the first.
        say: takes warnings for the log.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        done: int,
        batch_size: int,
        enabled: bool,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.folder = folder
        self.say = say
        self.batch_size = batch_size
        self.enabled = enabled
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=None if enabled else True,
        )
        self._start_epoch()
        self._losses = ""
        self._last_picture = self._last_postfix = -math.inf

    def _start_epoch(self) -> None:
        self._begin, self._wait, self._steps = time.perf_counter(), 0.0, 0
        self._val_begin, self._val_wait = self._begin, 0.0

    def step(self, waited: float) -> None:
        """Count a step that waited `waited` seconds for its data."""
        self._wait += waited
        self._steps += 1
        if time.monotonic() - self._last_postfix > 2:
            self._last_postfix = time.monotonic()
            rates = self.rates()
            speed = f"{rates['samples_per_s']:.1f} samples/s, waiting for data {100 * rates['data_wait']:.0f} %"
            self._bar.set_postfix_str(f"{speed}{self._losses}", refresh=False)
        self._bar.update()

    def seconds(self) -> float:
        """Seconds since the epoch began, validation included."""
        return round(time.perf_counter() - self._begin, 3)

    def rates(self) -> dict[str, float]:
        """Seconds of training, crops per second and share of time waiting for data; to be asked before validation."""
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        return {
            "train_seconds": round(seconds, 3),
            "samples_per_s": round(self._steps * self.batch_size / seconds, 3),
            "data_wait": round(self._wait / seconds, 4),
        }

    def validation(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the validation begins with the first, and the waiting for each is counted."""
        asked = self._val_begin = time.perf_counter()
        for batch in batches:
            self._val_wait += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def validation_rates(self) -> dict[str, float]:
        """Share of the validation's time spent waiting for data; to be asked right after it."""
        seconds = max(time.perf_counter() - self._val_begin, 1e-9)
        return {"val_data_wait": round(self._val_wait / seconds, 4)}

    def epoch(self, row: Mapping[str, Any], history: Sequence[Mapping[str, Any]], epochs: int) -> str:
        """Show an epoch's row, rewrite metrics.jsonl and (now and then) progress.png; returns the line for the log."""
        self._start_epoch()
        left = sum(r["seconds"] for r in history[-10:]) / len(history[-10:]) * (epochs - len(history))
        self._losses = f", loss {row['train_loss']:.4f}, validation {row['val_loss']:.4f}"
        empty, waited = row.get("empty_crops", 0.0), row.get("val_data_wait")
        line = (
            f"epoch {row['epoch'] + 1}/{epochs}  loss {row['train_loss']:.4f}  val {row['val_loss']:.4f}  "
            f"lr {row['lr']:.2e}  {row['samples_per_s']:.1f} samples/s  waiting for data {100 * row['data_wait']:.0f} %"
            f"{f' (validation {100 * waited:.0f} %)' if waited is not None else ''}  "
            f"{f'empty crops {100 * empty:.1f} %  ' if empty else ''}{duration(left)} left"
        )
        if not self.enabled:
            return line
        tqdm.write(line)
        self.begin_with(history)
        if time.monotonic() - self._last_picture > 20 or len(history) == epochs:
            picture = self.folder / "progress.png"
            tolerated(lambda: plot_progress(picture, history), picture, self.say)
            self._last_picture = time.monotonic()
        return line

    def begin_with(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite metrics.jsonl: these epochs are done and no others."""
        table = self.folder / "metrics.jsonl"
        if self.enabled:
            tolerated(lambda: write_metrics(table, history), table, self.say)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def duration(seconds: float) -> str:
    """`3 d 4 h`, `2 h 5 min`, `40 s`."""
    seconds = round(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {small_unit}"
    return f"{seconds} s"


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per epoch. Rewritten as a whole, so a resumed run has no doubled and no lost rows."""
    with atomic_path(path, make_folder=False) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")


def plot_progress(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Losses, learning rate, speed and empty crops over epochs."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    epochs = [row["epoch"] + 1 for row in history]
    marker = "o" if len(epochs) < 20 else None
    figure, axes = plt.subplots(3, 1, figsize=(9, 10), sharex=True, height_ratios=[3, 1, 1], layout="constrained")
    for key, label in (("train_loss", "training"), ("val_loss", "validation (fixed crops and masks)")):
        axes[0].plot(epochs, [row[key] for row in history], label=label, marker=marker)
    axes[0].set_ylabel("loss")
    axes[0].legend()
    axes[1].plot(epochs, [row["lr"] for row in history], color="tab:green", marker=marker)
    axes[1].set_ylabel("learning rate")
    axes[2].plot(epochs, [row["samples_per_s"] for row in history], color="tab:purple", marker=marker)
    axes[2].set_ylabel("crops per second")
    axes[2].set_ylim(bottom=0)
    wait = axes[2].twinx()
    wait.plot(
        epochs, [100 * row["data_wait"] for row in history], color="tab:gray", linestyle=":", label="waiting for data"
    )
    empty = [100 * row.get("empty_crops", math.nan) for row in history]  # runs begun with the first version have none
    wait.plot(epochs, empty, color="tab:red", linestyle="--", label="empty crops")
    wait.set_ylabel("%")
    wait.legend(loc="center right")
    wait.set_ylim(0, 100)
    axes[2].set_xlabel("epoch")
    for axis in axes:
        axis.grid(alpha=0.3)
    try:
        with atomic_path(path, make_folder=False) as temporary:
            figure.savefig(temporary, dpi=100)
    finally:
        plt.close(figure)
