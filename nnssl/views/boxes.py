"""Several random boxes per crop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def random_boxes(
    batch: int, count: int, size: Sequence[int], edge: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Draw boxes of random edges anywhere inside a crop; `box_masks` makes them masks.

    Args:
        batch: B.
        count: boxes per crop.
        size: voxels per axis.
        edge: range of a box' edge as a share of the crop's, the same for every axis; each axis draws its own. At least one
            voxel.
        generator: CPU generator.

    Returns:
        (B, count, dim, 2) int64 on the CPU, first and one-past-last voxel of each axis.
    """
    n = torch.tensor(size, dtype=torch.float32)
    draws = torch.rand(2, batch, count, len(size), generator=generator)
    length = ((edge[0] + draws[0] * (edge[1] - edge[0])) * n).round().clamp(min=1).minimum(n)
    low = (draws[1] * (n - length + 1)).floor().minimum(n - length)
    return torch.stack([low, low + length], dim=-1).long()


def box_masks(boxes: torch.Tensor, size: Sequence[int]) -> Iterator[torch.Tensor]:
    """One box of every crop after the other as a mask: (B, 1, *size) bool, True = in the box.

    Args:
        boxes: (B, count, dim, 2) as from `random_boxes`, on the device where masks are wanted; (0, 0) is empty.
        size: voxels per axis.
    """
    dim = len(size)
    within = []  # (B, count, n) per axis, for all boxes at once
    for axis, n in enumerate(size):
        position = torch.arange(n, device=boxes.device)
        within.append((position >= boxes[:, :, axis, :1]) & (position < boxes[:, :, axis, 1:]))
    for k in range(boxes.shape[1]):
        mask = torch.ones([1] * (dim + 2), dtype=torch.bool, device=boxes.device)
        for axis, along in enumerate(within):
            mask = mask & along[:, k].view(-1, 1, *[1] * axis, along.shape[2], *[1] * (dim - axis - 1))
        yield mask
