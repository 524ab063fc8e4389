"""How to compute a sparse encoder, the fast way: on the visible blocks alone.

The K visible blocks of every sample are taken out of the crop once and stay packed, as a batch of T = B K small tensors,
until a stage's output is needed densely. Only a convolution looks beyond its tile, and reads the margin from the tiles
beside it (tile_conv.py). Shapes follow from the number of blocks, not from where they are; nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nnssl.networks.dense_masked import DenseMasked
from nnssl.networks.executor import Executor
from nnssl.networks.sparse import BATCH_NORMS, overlaps
from nnssl.networks.tile_conv import fits, tile_conv
from nnssl.networks.tile_copy import gather_tiles, scatter_tiles
from nnssl.networks.tile_index import NeighbourRows, TileIndex


class TileSparse(Executor):
    """Features are tiles (T, C, *tile), tile = block / stride of the stage, in channels-last memory.

    What is rare and cannot be done on tiles (a max pooling with overlapping windows, another kind of padding, dropout of
    single numbers, which must draw the same ones) is done on the whole map, with `DenseMasked`.

    Args:
        visible, size: see `Executor`.
        count: visible blocks per sample; None reads it from the mask, which waits for the device.
        index: of the visible blocks, where it is known.
    """

    def __init__(
        self, visible: torch.Tensor, size: Sequence[int], count: int | None = None, index: TileIndex | None = None
    ) -> None:
        super().__init__(visible, size)
        self.index = TileIndex(visible, count) if index is None else index
        self.around = NeighbourRows(self.index)
        self.dense = DenseMasked(visible, size)

    def apart(self) -> TileSparse:
        """With the same index."""
        return TileSparse(self.visible, self.size, index=self.index)

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Take the visible blocks out."""
        return gather_tiles(x, self.index)

    def leave(self, x: torch.Tensor, filler: torch.Tensor | None = None) -> torch.Tensor:
        """Put the tiles into a dense tensor."""
        return scatter_tiles(x, self.index, x.new_zeros(x.shape[1]) if filler is None else filler)

    def conv(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """See `tile_conv`."""
        if not fits(module, tuple(x.shape[2:])):
            return self.enter(self.dense.conv(self.leave(x), module))
        return tile_conv(x, module, self.around)

    def norm(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Batch norm over the tiles of the batch, or over those of each sample: torch's own, in float32 at least."""
        norm: Any = module
        plain_average = type(module) in BATCH_NORMS and norm.momentum is None  # torch would wait for the device
        if x.numel() == x.shape[1] or plain_average:  # torch refuses to normalise a single position
            return self.enter(self.dense.norm(self.leave(x), module))
        if type(module) in BATCH_NORMS:
            return _batch_norm(x, norm)
        samples = [_normalise(part, norm) for part in x.chunk(self.index.batch)]
        return samples[0] if len(samples) == 1 else torch.cat(samples)

    def pool(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Windows that do not overlap lie within a tile."""
        if overlaps(module):
            return self.enter(self.dense.pool(self.leave(x), module))
        return module(x)

    def pointwise(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Apply. Dropout draws for the whole map, so that the executors drop the same numbers."""
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            size = [g * t for g, t in zip(self.index.grid, x.shape[2:])]
            drawn = nn.functional.dropout(x.new_ones(self.index.batch, x.shape[1], *size), module.p)
            return x * gather_tiles(drawn, self.index)
        return module(x)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Tile by tile."""
        return x + y

    def mean(self, x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """Over all positions of a sample's tiles; over some axes only, on the whole map."""
        if len(axes) < x.ndim - 2:
            return self.dense.mean(self.leave(x), axes)
        rows_BNC = x.movedim(1, -1).reshape(self.index.batch, -1, x.shape[1])
        precise = rows_BNC if x.dtype == torch.float64 else rows_BNC.float()
        return precise.mean(1).to(x.dtype).view(self.index.batch, -1, *(1 for _ in axes))

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """A factor for each sample, or, where it is one for each place along an axis, cut into tiles."""
        factor = factor.to(x.dtype)
        if all(n == 1 for n in factor.shape[2:]):
            return x * factor.repeat_interleave(self.index.per_sample, dim=0)
        size = [g * t for g, t in zip(self.index.grid, x.shape[2:])]
        return x * gather_tiles(factor.expand(-1, -1, *size), self.index)


def _normalise(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """Statistics of x, which is what an instance norm is for the tiles of one sample."""
    return torch.batch_norm(x, norm.weight, norm.bias, None, None, True, 0.0, norm.eps, torch.backends.cudnn.enabled)


def _batch_norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """As `nn.BatchNormNd`; also for a `nn.SyncBatchNorm`, of this process alone."""
    learns = norm.training and norm.track_running_stats
    if learns:
        norm.num_batches_tracked += 1
    known = norm.running_mean is not None and (learns or not norm.training)
    mean, variance = (norm.running_mean, norm.running_var) if known else (None, None)
    of_batch = norm.training or norm.running_mean is None
    momentum, cudnn = norm.momentum, torch.backends.cudnn.enabled
    return torch.batch_norm(x, norm.weight, norm.bias, mean, variance, of_batch, momentum, norm.eps, cudnn)
