"""What a study will cost, from a few measured steps."""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nnssl.errors import NnsslError
from nnssl.evaluate.study.cells import grid, record_of, state_of
from nnssl.evaluate.study.preparation import all_draws, subjects_of
from nnssl.evaluate.study.spec import StudyConfig, read_study, write_study

MEASURED_STEPS = 4


def measure_cost(study: StudyConfig, folder: Path, jobs: int, device: str) -> list[str]:
    """Lines that say what would run and how long it takes; from finished cells where there are any, else measured.

    Args:
        study: checked.
        folder: of the study, which need not exist.
        jobs: trainings at a time, over all parts of the study.
        device: to measure on.
    """
    cells = grid(study)
    states = [state_of(cell.folder(folder)) for cell in cells]
    left = len(cells) - states.count("done")
    lines = [
        f"{len(study.inits)} initialisations x {len(study.counts)} counts x {len(study.seeds)} draws = {len(cells)} "
        f"trainings{f' of {study.steps} steps' if study.stepwise else ''}; {states.count('done')} done, {left} to do",
        f"{len(study.test)} test cases"
        + (f", {len(study.validation)} validation cases every {study.evaluate_every} steps" if study.stepwise else ""),
    ]
    finished = [record_of(cell.folder(folder)).get("seconds") for cell in cells]
    known = [s for s in finished if s]
    if known:
        seconds, how = statistics.median(known), f"median of {len(known)} finished trainings"
    else:
        tried = f"{MEASURED_STEPS} measured steps and one validation" if study.stepwise else "one fit"
        seconds, how = _measured(study, device), f"from {tried} on {device}"
    lines.append(f"one training takes about {_time(seconds)} ({how})")
    lines.append(
        f"all that is left: {_time(seconds * left / jobs)} with {jobs} at a time, if they do not slow each other"
    )
    return lines


def _measured(study: StudyConfig, device: str) -> float:
    """Seconds of one training, measured in a process of its own: nnU-Net fixes its results folder when it is imported."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "study.yaml"
        write_study(study, file)
        done = subprocess.run(
            [sys.executable, "-m", "nnssl.evaluate.study.cost", str(file), device, scratch],
            env={**os.environ, "nnUNet_results": scratch},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NnsslError(f"a trial of a few steps failed: {last}")
    return float(done.stdout.strip().splitlines()[-1])


def seconds_of_training(study: StudyConfig, device: str, scratch: Path) -> float:
    """Seconds of one training: its steps, its validations, and its test cases as so many more of them.

    Args:
        study: the study; its control and largest count are tried.
        device: to train on.
        scratch: folder for what the trial writes; nnUNet_results must point there.
    """
    from nnssl.evaluate.study.cell_trainer import one_process
    from nnssl.evaluate.study.cells import Cell
    from nnssl.evaluate.study.run_cell import make_trainer

    draws = all_draws(study.model_copy(update={"seeds": study.seeds[:1]}), subjects_of(study))
    count = max(study.counts)
    drawn = draws[str(study.seeds[0])][str(count)]
    if study.classify is not None:
        from nnssl.evaluate.study.classification import seconds_of_classification

        return seconds_of_classification(study, drawn, torch.device(device))
    one_process(torch.device(device))
    slices = drawn if isinstance(drawn, dict) else {}
    short = study.model_copy(update={"steps": MEASURED_STEPS, "evaluate_every": MEASURED_STEPS})
    with contextlib.redirect_stdout(io.StringIO()):
        cell = Cell(study.control, count, study.seeds[0])
        trainer = make_trainer(short, cell, scratch, list(drawn), slices, torch.device(device))
        began = time.monotonic()
        trainer.on_train_start()
        start = time.monotonic() - began
        trainer.on_train_epoch_start()
        trainer.train_step(next(trainer.dataloader_train))  # the first is slower
        began = time.monotonic()
        for _ in range(MEASURED_STEPS):
            trainer.train_step(next(trainer.dataloader_train))
        step = (time.monotonic() - began) / MEASURED_STEPS
        began = time.monotonic()
        trainer.whole_cases.dice()
        validation = time.monotonic() - began
    times_validated = study.steps // study.evaluate_every + 1
    tested = validation / len(study.validation) * len(study.test)
    return start + study.steps * step + times_validated * validation + tested


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    print(seconds_of_training(read_study(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])))  # noqa: T201  to the parent
