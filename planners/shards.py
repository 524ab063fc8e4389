"""A job array's share of the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from nnssl.errors import NnsslError

Item = TypeVar("Item")


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
