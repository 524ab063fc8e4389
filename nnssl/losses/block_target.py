"""Reconstruction targets that are normalised block by block: shape and texture count, brightness does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def block_statistics(
    image: torch.Tensor, inside: torch.Tensor, block: Sequence[int], floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every block and channel (He et al. 2022, section 3, "reconstruction target").

    Args:
        image: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image; padding does not count.
        block: voxels per axis; divides the spatial size.
        floor: smallest standard deviation, in the image's unit. A block of air has none, and one of mere noise should
            not count as much as one of anatomy.

    Returns:
        Two float32 tensors (B, C, *grid). The standard deviation is the biased one (divided by the count), so the mean
        square of a normalised block is 1. A block without an image voxel has mean 0 and the floor.
    """
    grid = [n // b for n, b in zip(image.shape[2:], block)]
    values, weight = _split(image.float(), grid), _split(inside.float(), grid)
    axes = tuple(range(3, values.ndim, 2))
    count = weight.sum(axes, keepdim=True).clamp(min=1.0)
    mean = (values * weight).sum(axes, keepdim=True) / count
    variance = ((values - mean).square() * weight).sum(axes, keepdim=True) / count
    shape = (*image.shape[:2], *grid)
    return mean.reshape(shape), variance.sqrt().clamp(min=floor).reshape(shape)


def normalise_blocks(image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(image - mean) / std with the statistics (B, C, *grid) of each voxel's block; (B, C, *spatial) float32."""
    tiles = _split(image.float(), mean.shape[2:])
    return ((tiles - _beside(mean)) / _beside(std)).reshape(image.shape)


def restore_blocks(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """The inverse of `normalise_blocks`: what a prediction of normalised blocks looks like as an image."""
    tiles = _split(values.float(), mean.shape[2:])
    return (tiles * _beside(std) + _beside(mean)).reshape(values.shape)


def _split(x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """(B, C, *spatial) -> (B, C, g1, b1, g2, b2, ...): block and offset of each axis side by side."""
    sides = [side for n, g in zip(x.shape[2:], grid) for side in (g, n // g)]
    return x.reshape(*x.shape[:2], *sides)


def _beside(statistics: torch.Tensor) -> torch.Tensor:
    """(B, C, *grid) -> (B, C, g1, 1, g2, 1, ...)."""
    sides = [side for g in statistics.shape[2:] for side in (g, 1)]
    return statistics.reshape(*statistics.shape[:2], *sides)
