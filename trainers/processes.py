"""`-num_gpus N`: one process per rank on this machine, watched: when one dies, the others do not wait for it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from nnssl.trainers.process_group import LostContact
from nnssl.trainers.stopping import SIGNALS
from torch import distributed as dist

from nnssl.disk import user_error
from nnssl.errors import USER_ERROR

GRACE_SECONDS = 30.0
"""What the others have to leave by themselves after one has failed; then they are killed: they may wait in a GPU's queue."""
_SAID = 4
"""Exit code of a process that has said itself why the run is lost for now; the command leaves with LostContact's."""


def run_processes(work: Callable[[], int], count: int, debug: bool) -> int:
    """Run `work` in `count` processes with torchrun's environment, hand on signals that ask to stop.

    Args:
        work: can be pickled; returns an exit code. Says its errors itself; see `said`.
        count: number of processes.
        debug: tracebacks of user errors.

    Returns:
        0, the exit code of an error that a process has said, or 128 + signal after a stop on request.

    Raises:
        LostContact: a process was killed, or did not answer the others any more.
    """
    context = multiprocessing.get_context("spawn")
    # where the processes meet; kept here, it outlives the first of them, and no other program can take its port meanwhile
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ranks = [context.Process(target=_one, args=(work, r, count, store.port, debug), name=str(r)) for r in range(count)]

    asked: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for process in ranks:
            if process.pid is not None and process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):  # it has left at this moment
                    os.kill(process.pid, number)

    former = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        for process in ranks:
            process.start()
        killed = _watch(ranks)
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
        for number, handler in former.items():
            signal.signal(number, handler)
    codes = [process.exitcode or 0 for process in ranks]
    if asked and -asked[0] in codes:  # it came before the processes listened: nothing has begun
        return 128 + asked[0]
    return _verdict(codes, killed)


def _watch(ranks: Sequence[BaseProcess]) -> list[int]:
    """Wait for all processes; after a failure only so long. Returns the ranks that had to be killed."""
    running: dict[Any, BaseProcess] = {process.sentinel: process for process in ranks}
    deadline: float | None = None
    while running:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        for sentinel in connection.wait(list(running), left):
            process = running.pop(sentinel)
            process.join()
            if deadline is None and _failed(process.exitcode or 0):
                deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() >= deadline:
            for process in running.values():
                process.kill()
                process.join()
            return [int(process.name) for process in running.values()]
    return []


def _failed(code: int) -> bool:
    """A process that left on request (128 + signal) saved the run first, or lets the first process save it in peace."""
    return code != 0 and code <= 128


def _verdict(codes: list[int], killed: list[int]) -> int:
    """One exit code for all processes, or the reason why they ended."""
    died = [r for r, code in enumerate(codes) if code < 0 and r not in killed]
    known = [code for code in codes if code > 0 and code != LostContact.exit_code]
    if not died and known:
        code = USER_ERROR if USER_ERROR in known else max(known)
        return LostContact.exit_code if code == _SAID else code
    if died:
        number = -codes[died[0]]
        hint = ", often because memory ran out" if number == signal.SIGKILL else ""
        why = f"process {died[0]} of {len(codes)} was killed ({signal.Signals(number).name}{hint})"
    elif killed:
        why = f"process {killed[0]} of {len(codes)} did not answer the others any more"
    elif LostContact.exit_code in codes:
        why = "the processes lost contact with each other"
    else:
        return 0
    raise LostContact(f"{why}. The checkpoints are valid: the same command with --c goes on")


def _one(work: Callable[[], int], rank: int, count: int, port: int, debug: bool) -> None:
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torchrun's word for: the launcher keeps the store
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the command ends its processes
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        code = work()
    except LostContact as error:
        code = error.exit_code  # the command sees who died and says so
    except Exception as error:
        known = user_error(error)
        if known is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {known}", file=sys.stderr)  # noqa: T201  the command only sees an exit code
        code = _SAID if known.exit_code == LostContact.exit_code else known.exit_code
    sys.exit(code)


def _leave_with_parent() -> None:
    """Save and stop when the command is gone, however it ended: nobody would watch over this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
