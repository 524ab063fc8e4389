"""Copies between a dense tensor and its visible tiles, and from tile to tile.

Tiles are (T, C, *tile) in channels-last memory: a position is one row of C numbers, so that a copy is a selection of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnssl.networks.tile_index import TileIndex


def gather_tiles(x: torch.Tensor, index: TileIndex) -> torch.Tensor:
    """(B, C, *spatial) to (T, C, *tile)."""
    return _channels_last(_blocks(x, index)[_selection(index)])


def scatter_tiles(x: torch.Tensor, index: TileIndex, filler: torch.Tensor) -> torch.Tensor:
    """(T, C, *tile) to (B, C, *spatial) with `filler` (C,) at hidden positions."""
    return _Scatter.apply(x, filler, index)


def with_margin(x: torch.Tensor, rows: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Tiles with what stands around them.

    Args:
        x: (T, C, *tile).
        rows: as `NeighbourRows` makes them for a size.
        size: edge per axis, margins included.

    Returns:
        (T, C, *size), zero where a position is hidden or outside the crop.
    """
    packed = x.movedim(1, -1).reshape(-1, x.shape[1])
    packed = torch.cat([packed, packed.new_zeros(1, x.shape[1])])  # what stands at hidden positions
    return packed.index_select(0, rows).view(x.shape[0], *size, x.shape[1]).movedim(-1, 1)


class _Scatter(torch.autograd.Function):
    """Written out because autograd would copy the whole dense gradient to take the tiles out of it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, filler: torch.Tensor, index: TileIndex) -> torch.Tensor:
        ctx.index = index
        size = [g * t for g, t in zip(index.grid, x.shape[2:])]
        out = filler.to(x.dtype).expand(index.batch, *size, x.shape[1]).contiguous().movedim(-1, 1)
        _blocks(out, index)[_selection(index)] = x
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        tiles = _channels_last(_blocks(gradient, ctx.index)[_selection(ctx.index)])
        if not ctx.needs_input_grad[1]:
            return tiles, None, None
        precise = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        axes = (0, *range(2, gradient.ndim))
        return tiles, (gradient.sum(axes, dtype=precise) - tiles.sum(axes, dtype=precise)), None


def _blocks(x: torch.Tensor, index: TileIndex) -> torch.Tensor:
    """A view with two axes for each: (B, C, g1, t1, g2, t2, ...)."""
    for axis in reversed(range(len(index.grid))):
        x = x.unflatten(axis + 2, (index.grid[axis], x.shape[axis + 2] // index.grid[axis]))
    return x


def _selection(index: TileIndex) -> tuple[Any, ...]:
    """What takes the visible blocks out of such a view: (T, C, t1, t2, ...)."""
    return (index.sample, slice(None), *(part for block in index.block for part in (block, slice(None))))


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
