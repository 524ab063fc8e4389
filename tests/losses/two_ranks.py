"""Several processes played by threads, to check what a loss does when a batch is spread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nnssl.losses import Ranks


def play_ranks(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], work: Callable[[Ranks, int, int], Any]) -> list:
    """Run `work(ranks, first row, row after the last)` once per rank at the same time; collectives meet at a barrier.

    Each rank must run the same collectives in the same order, as with real processes (else this stops after 20 s).
    """
    barrier = threading.Barrier(len(sizes), timeout=20)
    slots: list[Any] = [None] * len(sizes)
    me = threading.local()

    def exchange(x: torch.Tensor) -> list[torch.Tensor]:
        slots[me.rank] = x.detach().clone()
        barrier.wait()
        everybody = [s.clone() for s in slots]
        barrier.wait()
        return everybody

    def all_reduce(x: torch.Tensor) -> None:
        x.copy_(torch.stack(exchange(x)).sum(0))

    def all_gather(out: list[torch.Tensor], x: torch.Tensor) -> None:
        for mine, theirs in zip(out, exchange(x)):
            mine.copy_(theirs)

    results: list[Any] = [None] * len(sizes)

    def run(rank: int) -> None:
        me.rank = rank
        try:
            results[rank] = work(Ranks(sizes, rank), sum(sizes[:rank]), sum(sizes[: rank + 1]))
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    with monkeypatch.context() as patch:
        patch.setattr("nnssl.losses.ranks.dist.all_reduce", all_reduce)
        patch.setattr("nnssl.losses.ranks.dist.all_gather", all_gather)
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(sizes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
