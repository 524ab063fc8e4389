"""Masks. True = visible, everywhere. Drawn from a CPU generator, returned on the device that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch


def visible_count(n_blocks: int, mask_ratio: float) -> int:
    """Blocks left visible: round(n (1 - r)), but at least one visible and one masked."""
    return min(max(round(n_blocks * (1.0 - mask_ratio)), 1), n_blocks - 1)


def random_block_mask(
    batch: int, grid: Sequence[int], mask_ratio: float, generator: torch.Generator, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Shuffle the block grid of every sample and keep the same number of blocks visible in each.

    Args:
        batch: B.
        grid: blocks per axis; at least two blocks in all.
        mask_ratio: share of blocks to hide, in (0, 1).
        generator: CPU generator.

    Returns:
        (B, 1, *grid) bool, True = visible.
    """
    n = prod(grid)
    if n < 2:
        raise ValueError(f"a block grid of {tuple(grid)} has nothing to choose from: use smaller blocks")
    order = torch.rand(batch, n, generator=generator).argsort(dim=1)
    visible = torch.zeros(batch, n, dtype=torch.bool)
    visible.scatter_(1, order[:, : visible_count(n, mask_ratio)], True)
    return visible.view(batch, 1, *grid).to(device, non_blocking=True)


def expand_blocks(mask: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """(B, 1, *grid) -> (B, 1, *grid * block): every block becomes its voxels."""
    for axis, size in enumerate(block, start=2):
        mask = mask.repeat_interleave(size, dim=axis)
    return mask


def random_box_mask(
    batch: int, size: Sequence[int], share: float, generator: torch.Generator, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Hide one box per sample (the chest-CT study's single region; Tariq et al. 2024 hide 5 to 33 % of a slice).

    The box has the crop's proportions and `share` of its volume, and lies anywhere inside.

    Returns:
        (B, 1, *size) bool, True = visible.
    """
    edge = [min(max(round(s * share ** (1 / len(size))), 1), s) for s in size]
    hidden = torch.ones(batch, 1, *size, dtype=torch.bool, device=device)
    for axis, (length, s) in enumerate(zip(edge, size), start=2):
        low = torch.randint(0, s - length + 1, (batch,), generator=generator).to(device, non_blocking=True)
        position = torch.arange(s, device=device)
        within = (position >= low[:, None]) & (position < low[:, None] + length)
        shape = [batch, 1] + [1] * len(size)
        shape[axis] = s
        hidden = hidden & within.view(shape)
    return ~hidden


def inside_box(box: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Voxels of a crop that lie inside the image, the rest being padding.

    Args:
        box: (B, dim, 2) integers, first and one-past-last image voxel along each axis of the crop.
        size: spatial size of the crop.

    Returns:
        (B, 1, *size) bool, True = image.
    """
    inside = torch.ones(box.shape[0], 1, *size, dtype=torch.bool, device=box.device)
    for axis, s in enumerate(size):
        position = torch.arange(s, device=box.device)
        within = (position >= box[:, axis, :1]) & (position < box[:, axis, 1:])
        shape = [box.shape[0], 1] + [1] * len(size)
        shape[axis + 2] = s
        inside = inside & within.view(shape)
    return inside
