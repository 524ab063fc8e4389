"""A job array's share of the cases, and cases that other processes have in work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nnssl.data.claims import is_claimed
from nnssl.data.parallel import run_cases
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count` parts.

    Case number k belongs to part k mod count, so that parts are alike where neighbours in the alphabet are alike.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`"2/8"` -> the third of eight parts.

        Raises:
            NnsslError: not of that form, or out of range.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise NnsslError(f"--shard {text}: write it as i/n, for example 0/8 for the first of eight parts")
        shard = cls(int(index), int(count))
        if shard.index >= shard.count:
            raise NnsslError(
                f"--shard {text}: parts are counted from 0, so the last is {max(0, shard.count - 1)}/{count}"
            )
        return shard

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """This part of the items."""
        return list(items[self.index :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def run_claimed_cases(
    work: Callable[[Item], Result | None],
    items: Sequence[Item],
    locks: Sequence[Path],
    processes: int,
    description: str,
) -> tuple[dict[int, Result], dict[int, str]]:
    """As `run_cases`, beside other calls that work on the same cases: each case is in one process' hands at a time.

    Args:
        work: claims the item's lock; returns None where another process has it, and what that process made where it is done.
        items: the cases.
        locks: one per item.
        processes: worker processes.
        description: for the progress bar.
    """
    results: dict[int, Result] = {}
    failures: dict[int, str] = {}
    left = list(range(len(items)))
    while left:
        found, failed = run_cases(work, [items[i] for i in left], processes, description)
        failures |= {left[k]: reason for k, reason in failed.items()}
        results |= {left[k]: result for k, result in found.items() if result is not None}
        left = [left[k] for k, result in sorted(found.items()) if result is None]
        if left:
            log.info("%s: %d case(s) are in other processes' hands; waiting for them", description, len(left))
            time.sleep(POLL_SECONDS)  # in every round: a claim that can be seen but not taken must not keep a core busy
        while left and all(is_claimed(locks[i]) for i in left):
            time.sleep(POLL_SECONDS)
    return results, failures
