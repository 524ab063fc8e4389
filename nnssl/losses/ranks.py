"""A batch spread over processes, scored as if it lay on one.

Distributed training averages gradients over its processes. Two rules make that average the gradient of the big batch:

- a loss in which crops meet (contrast, batch statistics, prototypes) gathers the rows of all processes with `gather`, and
  every process computes the same loss on all of them;
- a loss that is a mean over voxels divides its own sum by everybody's count with `mean`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """Who holds how many crops of a batch. The default is one process with all of them.

    Attributes:
        sizes: crops per process.
        rank: this process.
    """

    sizes: tuple[int, ...] = (0,)
    rank: int = 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return len(self.sizes)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of all processes, in their order, with gradients back to where they came from.

        Args:
            x: (b, ...), one row per crop of this process.

        Returns:
            (B, ...), B = sum of `sizes`; x itself when there is one process.
        """
        return x if self.world == 1 else _Gather.apply(x, self.sizes, self.rank)

    def mean(self, total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Mean over all processes, scaled so that their average is the mean of the big batch.

        Args:
            total: sum over this process' items.
            count: how many items that were (or the sum of their weights).
        """
        if self.world > 1:
            count = count.detach().clone()
            dist.all_reduce(count)
        return self.world * total / count.clamp(min=1.0)


class _Gather(torch.autograd.Function):
    """all_gather with gradient. Processes may hold unequal numbers of rows: they are padded to the largest."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: tuple[int, ...], rank: int) -> torch.Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: x.shape[0]] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        begin = sum(ctx.sizes[: ctx.rank])
        return gradient[begin : begin + ctx.sizes[ctx.rank]], None, None
