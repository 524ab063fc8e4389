"""Work on many cases in processes, where one bad case never stops the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=max(1, min(processes, len(indices))), mp_context=context) as pool:
        futures = {pool.submit(work, items[i]): i for i in indices}
        for future in as_completed(futures):
            yield futures[future], future


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
