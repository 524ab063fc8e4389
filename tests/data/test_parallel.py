from __future__ import annotations

import os

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
