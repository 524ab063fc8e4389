"""Running statistics over steps, for batches too small for statistics of their own."""

from __future__ import annotations

import torch
from torch import nn

NORM_MOMENTUM = 0.99
"""Of `RunningNorm`: the statistics of about the last hundred steps."""


class RunningMean(nn.Module):
    """Mean of what was seen, over the last steps. `see` notes a batch, `update` moves; validation moves nothing.

    Args:
        start: (N,) value before the first step.
        momentum: of the running mean; in the first steps it is the plain mean of all so far.
    """

    value: torch.Tensor
    steps: torch.Tensor

    def __init__(self, start: torch.Tensor, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", start)
        self.register_buffer("steps", torch.zeros(()))
        self._seen: torch.Tensor | None = None

    def see(self, mean: torch.Tensor) -> None:
        """Note the mean (N,) over a batch of all processes."""
        if self.training:
            self._seen = mean.detach()

    @torch.no_grad()
    def update(self) -> None:
        """value <- momentum * value + (1 - momentum) * what was seen."""
        if self._seen is not None:
            self.steps += 1
            self.value.lerp_(self._seen, torch.clamp(1.0 / self.steps, min=1.0 - self.momentum))
            self._seen = None


class RunningNorm(nn.Module):
    """Features less their running mean, divided by their running standard deviation; no gradient flows to either.

    nnU-Net's instance norms leave the pooled features of all crops nearly the same. What little they differ by is all that
    the prototypes could tell them apart by, and without this norm the student learns to answer "all prototypes alike"
    before it learns anything else. A batch norm would help too, but with the statistics of two or four crops.

    Args:
        width: of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.moments = RunningMean(torch.cat([torch.zeros(width), torch.ones(width)]), NORM_MOMENTUM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., width) float32."""
        mean, square = self.moments.value.chunk(2)
        return (x.float() - mean) * torch.rsqrt((square - mean.square()).clamp(min=1e-6))
