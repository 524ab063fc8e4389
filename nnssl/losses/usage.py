"""How assignments spread over prototypes: what a collapse of self-distillation or clustering looks like in numbers."""

from __future__ import annotations

import math

import torch

from nnssl.losses.distillation import entropy

FEW_USED, SAME_FOR_ALL = 0.05, 0.01
"""Shares of log K: mean assignments this pure, and assignments that differ this little, mean a collapse."""


class Usage:
    """How the teacher's assignments of a validation spread over the prototypes.

    Args:
        count: number of prototypes K.
        prefix: of the metrics' names.
    """

    def __init__(self, count: int, prefix: str = "") -> None:
        self.count, self.prefix = count, prefix
        self._sums: torch.Tensor | float = 0.0

    def add(self, rows: torch.Tensor) -> None:
        """Sums over crops, (B, K + 2) as of `assignment_sums`, of all processes."""
        self._sums = self._sums + rows.detach().sum(0)

    def metrics(self) -> dict[str, float]:
        """Entropy of the mean assignment and mean entropy of one, as shares of log K; forgets what was added."""
        if isinstance(self._sums, float):
            return {}
        *total, uncertain, weight = (self._sums / self._sums[-1].clamp(min=1e-6)).tolist()
        self._sums = 0.0
        if weight == 0:
            return {}
        most = math.log(self.count)
        return {
            f"{self.prefix}usage_entropy": float(entropy(torch.tensor(total))) / most,
            f"{self.prefix}assignment_entropy": uncertain / most,
        }


def assignment_sums(p: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Per crop: weighted sum of its assignments, of their entropies, and of the weights.

    Args:
        p: (B, P, K) distributions.
        weight: (B, P).

    Returns:
        (B, K + 2).
    """
    columns = torch.cat([p, entropy(p)[..., None], torch.ones_like(p[..., :1])], dim=-1)
    return (columns * weight[..., None]).sum(1)
