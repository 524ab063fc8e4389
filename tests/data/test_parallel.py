from __future__ import annotations

import os
import time
from pathlib import Path

from nnssl.data import parallel
from nnssl.data.parallel import Failure, run_cases


def work(item: int) -> int:
    if item == 2:
        raise Failure("is broken")
    if item == 3:
        raise KeyError("some reader's own\n error")
    if item == 5:
        os._exit(1)  # what a crash in a library or the out-of-memory killer does
    return item * item


def test_a_bad_case_never_stops_the_others() -> None:
    results, failures = run_cases(work, list(range(8)), 2, "test")
    assert results == {0: 0, 1: 1, 4: 16, 6: 36, 7: 49}
    assert failures[2] == "is broken"
    assert failures[3].startswith("KeyError: ")
    assert "\n" not in failures[3]
    assert "process died" in failures[5]
    assert set(failures) == {2, 3, 5}


def slow(folder_and_number: tuple[Path, int]) -> int:
    """Item 1 crashes; every other leaves its process id behind."""
    folder, number = folder_and_number
    if number == 1:
        os._exit(1)
    time.sleep(0.05)
    (folder / f"{number}-{os.getpid()}").touch()
    return number


def test_a_crash_does_not_make_the_rest_one_process_each(tmp_path: Path) -> None:
    results, failures = run_cases(slow, [(tmp_path, i) for i in range(40)], 2, "test")
    assert list(failures) == [1]
    assert sorted(results.values()) == [0, *range(2, 40)]
    assert len({p.name.partition("-")[2] for p in tmp_path.iterdir()}) < 10


def endless(item: int) -> int:
    parallel.signal.alarm(1)  # what the limit of an hour comes to, sooner
    while item == 3:
        time.sleep(0.1)
    return item


def test_a_case_without_an_end_is_given_up() -> None:
    results, failures = run_cases(endless, list(range(6)), 2, "test")
    assert list(failures) == [3]
    assert "60 minutes" in failures[3]
    assert len(results) == 5
