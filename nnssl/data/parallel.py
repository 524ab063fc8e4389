"""Work on many cases in processes, where one bad case never stops the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.forkserver import ensure_running
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(Exception):
    """Why a case was given up; `str()` is one line for the report."""


def run_cases(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, description: str
) -> tuple[dict[int, Result], dict[int, str]]:
    """Call `work` on every item in worker processes, with a progress bar.

    A case that raises is reported. A case that takes its whole process down (memory, a crash inside a reading library)
    breaks the pool; what had not finished is then tried again one case to a process, so that only the culprit is lost.

    Returns:
        Results and reasons for failure, both by position in `items`.
    """
    results: dict[int, Result] = {}
    failures: dict[int, str] = {}
    with tqdm(total=len(items), desc=description, unit="case", disable=None) as bar:
        lost = _collect(_attempt(work, items, range(len(items)), processes), results, failures, bar)
        for i in lost:
            if _collect(_attempt(work, items, [i], 1), results, failures, bar):
                failures[i] = "its process died while reading or processing it (out of memory, or a crash in a library)"
                bar.update()
    return results, failures


def _attempt(
    work: Callable[[Item], Result], items: Sequence[Item], indices: Sequence[int], processes: int
) -> Iterator[tuple[int, Future[Result]]]:
    workers = max(1, min(processes, len(indices)))
    with ProcessPoolExecutor(max_workers=workers, mp_context=_context(work)) as pool:
        futures = {pool.submit(work, items[i]): i for i in indices}
        try:
            for future in as_completed(futures):
                yield futures[future], future
        except BaseException:  # interrupted: what has not begun must not keep the command alive
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
