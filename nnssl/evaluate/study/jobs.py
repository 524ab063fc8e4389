"""Running a study: worker processes, progress, retries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnssl.errors import NnsslError
from nnssl.evaluate.study.cells import Cell, claim, deaths_of, grid, record_of, state_of, write_record
from nnssl.evaluate.study.spec import recorded_study
from nnssl.files import read_rows

POLL_SECONDS = 2.0
ATTEMPTS = 2
"""A cell that fails is tried once more; what fails twice is reported."""


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` of a study's cells, for job arrays; locks keep parts apart even if they overlap."""

    index: int = 0
    count: int = 1

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this part."""
        return [cell for i, cell in enumerate(cells) if i % self.count == self.index]


def run_study(folder: Path, workers: int, share: Share, device: str) -> tuple[int, int]:
    """Run what is missing of a study in worker processes, with one progress display; returns (done, failed) of the share."""
    study = recorded_study(folder / "study.json")
    cells = share.of(grid(study))
    give_new_attempts(cells, folder)
    (folder / "logs").mkdir(exist_ok=True)
    # a scheduler's SIGTERM ends the workers, too
    before = signal.signal(signal.SIGTERM, _interrupt)
    team = Team(folder, workers, share, device)
    bar = tqdm(
        total=len(cells) * study.steps, unit="step" if study.stepwise else "fit", smoothing=0.02, dynamic_ncols=True
    )
    try:
        bar.update(sum(steps_done(cell.folder(folder), study.steps) for cell in cells))
        bar.initial = bar.n
        while team.working():
            time.sleep(POLL_SECONDS)
            _show(bar, cells, folder, study.steps)
        _show(bar, cells, folder, study.steps)
    finally:
        team.stop()
        bar.close()
        signal.signal(signal.SIGTERM, before)
    states = [state_of(cell.folder(folder)) for cell in cells]
    return states.count("done"), states.count("failed")


def give_new_attempts(cells: Sequence[Cell], folder: Path) -> None:
    """With every call what is broken is tried again, also what was killed; not what another job does."""
    for cell in cells:
        where = cell.folder(folder)
        if not record_of(where).get("attempts") or state_of(where) not in ("failed", "waiting"):
            continue
        with claim(where) as mine:
            record = record_of(where)
            if mine and record.get("state") != "done":
                write_record(where, state="waiting", attempts=0, deaths=deaths_of(record))


def _interrupt(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _show(bar: Any, cells: Sequence[Cell], folder: Path, steps: int) -> None:
    bar.n = sum(steps_done(cell.folder(folder), steps) for cell in cells)
    states = [state_of(cell.folder(folder)) for cell in cells]
    failed, before = states.count("failed"), bar.desc
    bar.set_description(f"{states.count('done')} of {len(cells)} trainings", refresh=False)
    bar.set_postfix_str(f"{states.count('running')} running" + (f", {failed} failed" if failed else ""), refresh=False)
    if sys.stderr.isatty() or bar.desc != before:  # a log has a line for every training, not one for every look
        bar.refresh()


def steps_done(folder: Path, steps: int) -> int:
    """Steps of a cell that are done; a failed one has nothing left to do."""
    if record_of(folder).get("state") in ("done", "failed"):
        return steps
    curve = folder / "curve.csv"
    if not curve.is_file():
        return 0
    _, rows = read_rows(curve, ())  # another process may be writing its first line
    step = rows[-1].get("step", "") if rows else ""
    return int(step) if step.isdecimal() else 0


class Team:
    """Worker processes of one call; one that dies is replaced while its cells are not all tried."""

    def __init__(self, folder: Path, workers: int, share: Share, device: str) -> None:
        self.folder, self.share, self.device = folder, share, device
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.deaths = 0
        for i in range(workers):
            self._start(i)

    def working(self) -> bool:
        """Whether any worker still works; replaces those that died."""
        for i, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[i]
            if code != 0:
                self.deaths += 1
                if self.deaths > ATTEMPTS * 10:
                    raise NnsslError(f"worker processes keep dying: see {self.folder / 'logs'}")
                self._start(i)
        return bool(self.processes)

    def stop(self) -> None:
        """End what still runs; its cells will be taken up again by the next call."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait()

    def _start(self, number: int) -> None:
        results = self.folder.resolve() / "nnUNet_results"
        results.mkdir(exist_ok=True)
        environment = {**os.environ, "nnUNet_results": str(results), "PYTHONUNBUFFERED": "1"}
        arguments = [str(self.folder), self.device, str(self.share.index), str(self.share.count), str(number)]
        with (self.folder / "logs" / f"worker_{self.share.index}_{number}.log").open("ab") as file:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "nnssl.evaluate.study.worker", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
