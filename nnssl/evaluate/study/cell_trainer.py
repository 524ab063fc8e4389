"""nnU-Net's trainers as cells of a study: fixed number of steps, given cases, and whole-case curves."""

from __future__ import annotations

import csv
import os
import random
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnssl.evaluate.study.sliced import SlicedCases
from nnssl.evaluate.study.whole_cases import WholeCases
from nnssl.files import atomic_path, read_rows, write_json
from nnssl.trainers import finetune
from nnssl.trainers.finetune_plan import TRAINERS


@dataclass(frozen=True)
class CellRun:
    """What a cell asks of its trainer; travels in `plans["nnssl_study"]`, as nnU-Net hands over `continue_training`.

    Attributes:
        steps, evaluate_every: optimiser steps in all, and between two points of the curve.
        train, validation: case names.
        slices: case -> labelled slices; empty = all.
        seed: of weights, order and augmentation.
        curve: file of the learning curve.
        load_report: file of the load report.
    """

    steps: int
    evaluate_every: int
    train: list[str]
    validation: list[str]
    seed: int
    curve: str
    load_report: str
    slices: Mapping[str, list[int]] = field(default_factory=dict)


class StudyCell(nnUNetTrainer):
    """To stand before a trainer of nnU-Net's or ours in the bases of a class, see `cell_class`.

    What differs from the trainer alone: length, cases, seeds, whole-case evaluation of the validation cases instead of
    random patches, no checkpoint of the best epoch, no picture after every epoch.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        self.cell = CellRun(**plans.pop("nnssl_study"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.cell.steps // self.cell.evaluate_every
        self.num_iterations_per_epoch = self.cell.evaluate_every
        self.num_val_iterations_per_epoch = 1  # nnU-Net's loop wants one; the curve comes from whole cases
        self.save_every = max(1, self.num_epochs // 5)
        self._seconds = 0.0
        self._began = time.monotonic()

    def do_split(self) -> tuple[list[str], list[str]]:
        """The study's cases."""
        return list(self.cell.train), list(self.cell.validation)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """As nnU-Net; training cases narrowed to their labelled slices where the study counts slices."""
        training, validation = super().get_tr_and_val_datasets()
        return (SlicedCases(training, self.cell.slices) if self.cell.slices else training), validation

    def on_train_start(self) -> None:
        """Seed everything, begin as the trainer does, and evaluate what it begins with."""
        seed_everything(self.cell.seed, self.current_epoch)
        super().on_train_start()
        report = getattr(self, "load_report", None)  # of the fine-tuning trainers
        if report is not None:
            write_json(report.as_dict(), self.cell.load_report)
        self.whole_cases = WholeCases(self, self.cell.validation)
        if self.current_epoch == 0:
            self._seconds = getattr(self, "head_seconds", 0.0)  # a fit of the layers is part of the training
            self._write_point(0, None)
        else:
            self._seconds = _forget_later(Path(self.cell.curve), self.current_epoch * self.cell.evaluate_every)

    def on_epoch_start(self) -> None:
        """Training time is counted without evaluations.

        Every epoch draws from the seed and its number, so that a training which was stopped goes on with the same batches;
        the first one goes on from what the beginning has drawn.
        """
        if self.current_epoch:
            seed_everything(self.cell.seed, self.current_epoch)
        super().on_epoch_start()
        self._began = time.monotonic()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """As the trainer; the clock stops."""
        super().on_train_epoch_end(train_outputs)
        self._seconds += time.monotonic() - self._began

    def on_epoch_end(self) -> None:
        """A point of the curve; nnU-Net's log and checkpoint, without its picture.

        The point first: a training that is killed while it evaluates must not go on behind a missing point.
        """
        loss = float(self.logger.get_value("train_losses", step=-1))
        self._write_point((self.current_epoch + 1) * self.cell.evaluate_every, loss)
        if self.current_epoch == self.num_epochs - 1:
            super().on_epoch_end()
        else:
            self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
            if (self.current_epoch + 1) % self.save_every == 0:
                self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
            self.current_epoch += 1

    def save_checkpoint(self, filename: str) -> None:
        """As the trainer, but for the best epoch: the study compares equal numbers of steps."""
        if Path(filename).name == "checkpoint_best.pth":
            return
        if isinstance(self, finetune.nnUNetTrainer_SSLBase):
            super().save_checkpoint(filename)
            return
        with atomic_path(filename, make_folder=False) as temporary:  # nnU-Net's own may be cut off by a kill
            super().save_checkpoint(str(temporary))

    def plot_network_architecture(self) -> None:
        """Not for every cell."""

    def _write_point(self, step: int, loss: float | None) -> None:
        averaged = getattr(self, "evaluated_weights", nullcontext)  # of the fine-tuning trainers
        with averaged():
            scores = self.whole_cases.dice()
        path = Path(self.cell.curve)
        row = {"step": step, "seconds": round(self._seconds, 2), "train_loss": loss, **scores}
        if step == 0:
            path.unlink(missing_ok=True)
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow({k: "" if v is None or v != v else v for k, v in row.items()})
        shown = ", ".join(f"{k} {v:.4f}" for k, v in scores.items())
        self.print_to_log_file(f"step {step}, whole validation cases: {shown}")


def cell_class(schedule: str) -> type[nnUNetTrainer]:
    """The trainer of a schedule as a cell; under its own name, so that folders are called after it."""
    base = nnUNetTrainer if schedule == "nnunet" else getattr(finetune, TRAINERS[schedule])
    return type(base.__name__, (StudyCell, base), {"__module__": __name__})


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed the global generators, which nnU-Net's initialisation, loader and augmentation draw from."""
    number = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002  nnU-Net's loader draws from this one
    random.seed(number)


def one_process(device: torch.device) -> None:
    """On a CPU nnU-Net's augmentation runs in the training process: repeatable, and no worker competes with it."""
    if device.type == "cpu":
        os.environ["nnUNet_n_proc_DA"] = "0"


def _forget_later(curve: Path, step: int) -> float:
    """Take rows after a step off a curve that a resumed training will write again; returns the seconds till then."""
    if not curve.is_file():
        return 0.0
    names, rows = read_rows(curve, ("step", "seconds"))
    rows = [r for r in rows if int(r["step"]) <= step]
    # all at once: a training that is killed here must find the points again that it will not reach once more
    with atomic_path(curve, make_folder=False) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return float(rows[-1]["seconds"]) if rows else 0.0


def last_point(curve: Path) -> tuple[int, float]:
    """Step of a learning curve's last point, and the seconds of training until then; -1 and 0 where there is none."""
    rows = read_rows(curve, ("step", "seconds"))[1] if curve.is_file() else []
    return (int(rows[-1]["step"]), float(rows[-1]["seconds"])) if rows else (-1, 0.0)
