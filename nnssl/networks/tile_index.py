"""Where the visible blocks of a batch lie, and which of them are neighbours, as tables on the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from nnssl.errors import NnsslError


class TileIndex:
    """Numbers the visible blocks of a batch 0 ... T - 1, sample by sample. All shapes follow from B, grid and count.

    Args:
        visible: (B, 1, *grid) bool, True = visible.
        count: visible blocks per sample, K, so that T = B K. None reads it from the mask, which waits for the device.

    Attributes:
        sample: (T,) the sample of each tile.
        block: per axis (T,) the place of each tile's block in the grid.
        tile_of: (B, prod(grid)) the tile of each block of the grid; T where it is hidden.

    Raises:
        NnsslError: no block is visible, or the samples of the mask do not have the same number.
    """

    def __init__(self, visible: torch.Tensor, count: int | None = None) -> None:
        self.batch, self.grid = visible.shape[0], tuple(visible.shape[2:])
        flat_BG = visible.flatten(1)
        counts_B = flat_BG.sum(1)
        if count is None:
            count = int(counts_B[0])
            if not count or not bool((counts_B == count).all()):
                raise NnsslError(f"every sample needs the same number of visible blocks, not {counts_B.tolist()}")
        else:  # checked without waiting for the device
            torch._assert_async(
                (counts_B == count).all(), "the mask does not have the promised number of visible blocks"
            )
        self.per_sample, self.tiles = count, self.batch * count
        # Stable: the visible blocks come first, in their own order.
        flat_BK = flat_BG.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        device = visible.device
        number_BK = torch.arange(self.tiles, device=device).view(self.batch, count)
        self.tile_of = torch.full(flat_BG.shape, self.tiles, device=device).scatter(1, flat_BK, number_BK)
        self.sample = torch.arange(self.batch, device=device).repeat_interleave(count)
        steps = [prod(self.grid[axis + 1 :]) for axis in range(len(self.grid))]
        self.block = [(flat_BK.flatten() // step) % n for step, n in zip(steps, self.grid)]


class NeighbourRows:
    """Where the surroundings of every tile are to be read, made once for every size.

    Args:
        index: of the tiles.
    """

    def __init__(self, index: TileIndex) -> None:
        self.index = index
        self._made: dict[tuple[tuple[int, ...], ...], torch.Tensor] = {}

    def rows(self, tile: Sequence[int], low: Sequence[int], high: Sequence[int]) -> torch.Tensor:
        """Which position of which tile stands at every position of every tile and of the margin around it.

        Args:
            tile: edge of a tile per axis, in positions of the stage.
            low, high: width of the margin before and behind the tile per axis; a negative one cuts.

        Returns:
            (T * prod(low + tile + high),) int64: tile times prod(tile) plus the place in it, or T * prod(tile) where a
            position is hidden or outside the crop.
        """
        key = (tuple(tile), tuple(low), tuple(high))
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, tile: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> torch.Tensor:
        index, grid, device = self.index, self.index.grid, self.index.sample.device
        dim = len(grid)
        neighbour = index.sample.view(-1, *(1 for _ in range(dim))) * prod(grid)
        inside = torch.ones((), dtype=torch.bool, device=device)
        place = torch.zeros((), dtype=torch.int64, device=device)
        for axis, (t, a, b, n) in enumerate(zip(tile, low, high, grid)):
            along = [1] * (dim + 1)
            along[axis + 1] = -1
            offset = torch.arange(-a, t + b, device=device)
            block = index.block[axis].view(-1, *(1 for _ in range(dim))) + offset.div(t, rounding_mode="floor").view(
                along
            )
            inside = inside & (block >= 0) & (block < n)
            neighbour = neighbour + block.clamp(0, n - 1) * prod(grid[axis + 1 :])
            place = place + (offset.remainder(t) * prod(tile[axis + 1 :])).view(along)
        found = index.tile_of.flatten()[neighbour]
        nothing = index.tiles * prod(tile)
        rows = torch.where(inside & (found < index.tiles), found * prod(tile) + place, nothing)
        return rows.flatten()
