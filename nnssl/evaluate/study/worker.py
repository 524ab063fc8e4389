"""A worker of a study: takes cells that nobody has and runs them, one after another, in one process."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from nnunetv2.utilities.helpers import empty_cache

from nnssl.data.claims import Claim
from nnssl.evaluate.study.cells import Cell, claim, deaths_of, grid, record_of, state_of, write_record
from nnssl.evaluate.study.jobs import ATTEMPTS, Share
from nnssl.evaluate.study.spec import StudyConfig, recorded_study
from nnssl.files import read_json
from nnssl.transfer.provenance import package_versions

log = logging.getLogger(__name__)

PARENT_SECONDS = 2.0


def work(folder: Path, device: torch.device, share: Share, number: int) -> None:
    """Run every cell of the share that is not done and that no other process has."""
    study = recorded_study(folder / "study.json")
    draws = read_json(folder / "draws.json")
    time.sleep(0.2 * number + random.random() * 0.1)  # workers of one call do not reach for the same lock at once
    # what has killed its process comes last: it may do so again, and the rest of the study should be done by then
    for cell in sorted(share.of(grid(study)), key=lambda cell: _deaths(cell.folder(folder))):
        where = cell.folder(folder)
        while state_of(where) == "waiting":
            with claim(where, _stop_myself) as mine:
                if not mine or state_of_record(where) in ("done", "failed"):
                    break
                run_one(study, cell, where, draws, device, mine)


def state_of_record(folder: Path) -> str:
    """What the record says, lock aside."""
    return str(record_of(folder).get("state", "waiting"))


def run_one(study: StudyConfig, cell: Cell, folder: Path, draws: Any, device: torch.device, mine: Claim) -> None:
    """Run a cell that this process holds; an error is written down, not raised. What is not its any more is left alone."""
    record = record_of(folder)
    attempts = int(record.get("attempts", 0)) + 1
    if attempts > ATTEMPTS:
        reason = "the process died twice; see the logs folder"
        write_record(folder, state="failed", reason=reason, deaths=deaths_of(record))
        return
    write_record(
        folder,
        **vars(cell),
        state="running",
        reason="",
        attempts=attempts,
        started=_now(),
        host=socket.gethostname(),
        device=str(device),
        deaths=deaths_of(record),
        made_with=_made_with(record, device, (folder / "curve.csv").is_file() and study.classify is None),
    )
    began = time.monotonic()
    log.info("=== %s, attempt %d, %s", cell.name, attempts, _now())
    drawn = draws[str(cell.seed)][str(cell.count)]
    try:
        run_cell(study, cell, folder, drawn, device)
    except (SystemExit, KeyboardInterrupt):  # stopped, not broken
        if mine:
            write_record(folder, state="waiting", attempts=attempts - 1)
        raise
    except Exception as error:  # whatever ends one training must not end the study
        traceback.print_exc()
        if not mine:
            return
        over = attempts >= ATTEMPTS
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        write_record(folder, state="failed" if over else "waiting", reason=reason, finished=_now())
        return
    finally:
        _let_go(device)
    if mine:
        write_record(folder, state="done", seconds=round(time.monotonic() - began, 1), finished=_now())


def run_cell(study: StudyConfig, cell: Cell, folder: Path, drawn: Any, device: torch.device) -> None:
    """One training of the study's task; each task imports what it needs."""
    if study.task == "classification":
        from nnssl.evaluate.study.classification import run_classification

        run_classification(study, cell, folder, drawn, device)
        return
    from nnssl.evaluate.study.run_cell import run_segmentation

    run_segmentation(study, cell, folder, list(drawn), drawn if isinstance(drawn, dict) else {}, device)


def _let_go(device: torch.device) -> None:
    """Free the cell's network: trainers refer to themselves, and Python would leave several of them in memory."""
    gc.collect()
    empty_cache(device)


def _made_with(record: dict[str, Any], device: torch.device, goes_on: bool) -> list[dict[str, str]]:
    """Device and versions; where a cell goes on from a checkpoint, after those of whoever began it."""
    earlier = record.get("made_with", []) if goes_on else []
    own = {"device": str(device), **package_versions()}
    return earlier if own in earlier else [*earlier, own]


def _deaths(folder: Path) -> int:
    """Of a cell that nobody has; one that another worker runs has not killed it."""
    record = record_of(folder)
    return deaths_of(record) if state_of(folder) != "running" else int(record.get("deaths", 0))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _follow(parent: int) -> None:
    """Stop when the command that started this worker is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(*_: int | FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # locks are released on the way out


def main() -> None:
    folder, device, index, count, number = sys.argv[1:]
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if device == "cpu" and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    work(Path(folder), torch.device(device), Share(int(index), int(count)), int(number))


if __name__ == "__main__":
    main()
