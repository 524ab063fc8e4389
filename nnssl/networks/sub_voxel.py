"""A coarse map whose channels are the voxels below each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def spread_voxels(x: torch.Tensor, factor: Sequence[int]) -> torch.Tensor:
    """(B, C * prod(factor), *spatial) to (B, C, *(spatial * factor)): pixel shuffle, for any number of axes and any factors.

    Channel c * prod(factor) + k is voxel k of channel c, in row-major order.
    """
    if all(f == 1 for f in factor):
        return x
    dim = len(factor)
    voxels = x.unflatten(1, (-1, *factor))  # (B, C, f1, ..., s1, ...)
    pairs = [axis for d in range(dim) for axis in (2 + dim + d, 2 + d)]
    spread = voxels.permute(0, 1, *pairs)
    return spread.reshape(x.shape[0], -1, *(n * f for n, f in zip(x.shape[2:], factor)))
