"""Work on many cases in processes, where one bad case never stops the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.forkserver import ensure_running
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


MOST_SECONDS = 3600
"""For one case. A damaged header can send a library into a search without end; no honest case takes so long."""
_begun: Any = None
"""In a worker: one byte per item, set when work on it begins. The command reads it when a worker has died."""


class Failure(Exception):
    """Why a case was given up; `str()` is one line for the report."""


def run_cases(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, description: str
) -> tuple[dict[int, Result], dict[int, str]]:
    """Call `work` on every item in worker processes, with a progress bar.

    A case that raises is reported. A case that takes its whole process down (memory, a crash inside a reading library), or
    does not end, breaks the pool. Of the cases lost with it, those that had begun are then tried again one to a process,
    so that only the culprit is lost, and the others in a pool as before.

    Returns:
        Results and reasons for failure, both by position in `items`.
    """
    results: dict[int, Result] = {}
    failures: dict[int, str] = {}
    with tqdm(total=len(items), desc=description, unit="case", disable=None) as bar:
        left: list[int] = list(range(len(items)))
        while left:
            begun = _context(work).RawArray("b", len(items))
            lost = _collect(_attempt(work, items, left, processes, begun), results, failures, bar)
            suspects = [i for i in lost if begun[i]] or lost[:1]
            for i in suspects:
                if _collect(_attempt(work, items, [i], 1, begun), results, failures, bar):
                    failures[i] = (
                        "its process died while reading or processing it (out of memory, a crash in a library, or more "
                        f"than {MOST_SECONDS // 60} minutes)"
                    )
                    bar.update()
            left = [i for i in lost if i not in suspects]
    return results, failures


def _attempt(
    work: Callable[[Item], Result], items: Sequence[Item], indices: Sequence[int], processes: int, begun: Any
) -> Iterator[tuple[int, Future[Result]]]:
    workers = max(1, min(processes, len(indices)))
    with ProcessPoolExecutor(workers, _context(work), initializer=_remember, initargs=(begun,)) as pool:
        futures = {pool.submit(_one, work, items[i], i): i for i in indices}
        try:
            for future in as_completed(futures):
                yield futures[future], future
        except BaseException:  # interrupted: what has not begun must not keep the command alive
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _remember(begun: Any) -> None:
    global _begun
    _begun = begun
    threading.Thread(target=_end_with_the_command, daemon=True).start()


def _end_with_the_command() -> None:
    """A worker of a command that was killed would wait for cases for ever, and keep what it has claimed."""
    command = multiprocessing.parent_process()
    if command is not None:
        command.join()
        os._exit(1)


def _one(work: Callable[[Item], Result], item: Item, number: int) -> Result:
    _begun[number] = 1
    if hasattr(signal, "alarm"):  # its default action ends the process, also in the middle of a library's own code
        signal.alarm(MOST_SECONDS)
    try:
        return work(item)
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def prepare_workers(module: str) -> None:
    """Let the process that workers are copied from import `module` now, while this one still imports its own."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload([module])
        ensure_running()


def _context(work: Callable[..., object]) -> multiprocessing.context.BaseContext:
    """How worker processes start: copies of a fresh process that has imported everything once, where that exists.

    Importing torch and nnU-Net takes seconds, so a hundred small cases would spend most of their time on it if every
    worker did. A copy of this process itself might inherit locks that its threads hold.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    inner = work
    while isinstance(inner, partial):
        inner = inner.func
    prepare_workers(inner.__module__)  # without effect once the server runs: then it has most of it
    return multiprocessing.get_context("forkserver")


def _collect(
    outcomes: Iterator[tuple[int, Future[Result]]], results: dict[int, Result], failures: dict[int, str], bar: tqdm
) -> list[int]:
    """File every outcome; return the cases that were lost with a broken pool."""
    lost = []
    for i, future in outcomes:
        try:
            results[i] = future.result()
        except BrokenProcessPool:
            lost.append(i)
            continue
        except Exception as error:  # whatever a reader throws at a broken file belongs into the report
            failures[i] = one_line(error)
        bar.update()
    return sorted(lost)


def one_line(error: BaseException) -> str:
    """An exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    line = text if isinstance(error, Failure) else f"{name}: {text}" if text else name
    return line if len(line) <= 300 else line[:297] + "..."


def ignore_signals() -> None:
    """A scheduler signals every process of a job; a helper that died of it would take the run down before it is saved."""
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
