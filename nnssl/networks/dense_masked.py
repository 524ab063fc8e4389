"""How to compute a sparse encoder, the plain way: run every operation on the whole crop, then set hidden positions to zero.

It saves no time over a dense encoder. Every other executor is held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnssl.errors import NnsslError
from nnssl.networks.executor import Executor
from nnssl.networks.sparse import BATCH_NORMS, MAX_POOLS, overlaps

ZERO_STAYS_ZERO = (
    nn.Identity,
    nn.Dropout,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
)


class DenseMasked(Executor):
    """Features are dense tensors (B, C, *spatial) that are zero at hidden positions."""

    def __init__(self, visible: torch.Tensor, size: Sequence[int]) -> None:
        super().__init__(visible, size)
        self._hidden: dict[tuple[int, ...], torch.Tensor] = {}

    def apart(self) -> DenseMasked:
        """Without the masks that were made for other resolutions."""
        return DenseMasked(self.visible, self.size)

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Select rather than multiply: 0 x NaN is NaN."""
        return x.masked_fill(self.hidden(x), 0)

    def leave(self, x: torch.Tensor, filler: torch.Tensor | None = None) -> torch.Tensor:
        """As it is, or filled."""
        if filler is None:
            return x
        return torch.where(self.hidden(x), filler.view(1, -1, *(1 for _ in x.shape[2:])).to(x.dtype), x)

    def conv(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Convolve, mask."""
        return self._mask(module(x))

    def norm(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """See `masked_norm`."""
        return masked_norm(x, self.hidden(x), module)

    def pool(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Pool, mask. The largest value in windows that overlap must not be the zero of a hidden position."""
        if type(module) in MAX_POOLS and overlaps(module):
            x = x.masked_fill(self.hidden(x), -torch.inf)
        return self._mask(module(x))

    def pointwise(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Apply; mask where zero does not stay zero, for the mask costs a copy that is kept for the gradient."""
        out = module(x)
        return out if type(module) in ZERO_STAYS_ZERO else out.masked_fill(self.hidden(out), 0)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Zero and zero is zero."""
        return x + y

    def mean(self, x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """Sum by count of visible positions."""
        count = (~self.hidden(x)).sum(axes, keepdim=True).clamp(min=1)
        return (_precise(x).sum(axes, keepdim=True) / count).to(x.dtype)

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Zero stays zero."""
        return x * factor.to(x.dtype)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, *spatial) bool, True = hidden, at the resolution of x.

        Raises:
            NnsslError: that resolution cannot be divided into the blocks.
        """
        size = tuple(x.shape[2:])
        if size not in self._hidden:
            self._hidden[size] = ~expand_mask(self.visible, size)
        return self._hidden[size]

    def _mask(self, fresh: torch.Tensor) -> torch.Tensor:
        """In place: what a convolution or a pooling has just made is not needed for its gradient."""
        return fresh.masked_fill_(self.hidden(fresh), 0)


def expand_mask(visible: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Block mask at the resolution of a stage.

    Args:
        visible: (B, 1, *grid).
        size: spatial size of the stage.

    Returns:
        (B, 1, *size).

    Raises:
        NnsslError: the size is no multiple of the grid.
    """
    grid = visible.shape[2:]
    if any(n % g for n, g in zip(size, grid)):
        raise NnsslError(f"a stage of {list(size)} positions cannot be divided into {list(grid)} blocks")
    for axis, (n, g) in enumerate(zip(size, grid), start=2):
        visible = visible.repeat_interleave(n // g, dim=axis)
    return visible


def masked_norm(x: torch.Tensor, hidden: torch.Tensor, module: Any) -> torch.Tensor:
    """Instance or batch norm with statistics of the visible positions.

    Args:
        x: (B, C, *spatial), zero at hidden positions.
        hidden: (B, 1, *spatial) bool, True = hidden.
        module: `nn.InstanceNormNd` without running statistics: mean and variance of each sample and channel; or
            `nn.BatchNormNd`: of each channel over the batch of this process, the running ones in eval mode.

    Returns:
        (B, C, *spatial) of x's type, zero at hidden positions; computed in float32, or float64 for such x. One such
        tensor is kept for the gradient.
    """
    batch = type(module) in BATCH_NORMS
    axes = (0, *range(2, x.ndim)) if batch else tuple(range(2, x.ndim))
    per_channel = (1, -1, *(1 for _ in x.shape[2:]))
    values = _precise(x)
    if batch and not module.training and module.running_mean is not None:
        mean = module.running_mean.view(per_channel)
        variance = module.running_var.view(per_channel)
        centred = (values - mean).masked_fill_(hidden, 0)
    else:
        count = (~hidden).sum(axes, keepdim=True).clamp(min=1)
        mean = values.sum(axes, keepdim=True) / count
        centred = (values - mean).masked_fill_(hidden, 0)
        variance = centred.square().sum(axes, keepdim=True) / count
        if batch and module.training and module.track_running_stats:
            _track(module, mean, variance, count)
    factor = torch.rsqrt(variance + module.eps)
    if module.weight is not None:
        factor = factor * module.weight.view(per_channel)
    out = centred * factor
    if module.bias is not None:
        out = (out + module.bias.view(per_channel)).masked_fill_(hidden, 0)
    return out.to(x.dtype)


@torch.no_grad()
def _track(norm: Any, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
    """Update running statistics as nn.BatchNorm does: unbiased variance; momentum None is a plain average."""
    norm.num_batches_tracked += 1
    rate = 1.0 / norm.num_batches_tracked.float() if norm.momentum is None else norm.momentum
    unbiased = variance * count / (count - 1).clamp(min=1)
    norm.running_mean += rate * (mean.flatten() - norm.running_mean)
    norm.running_var += rate * (unbiased.flatten() - norm.running_var)


def _precise(x: torch.Tensor) -> torch.Tensor:
    """float32, or float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
