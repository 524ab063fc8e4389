"""Convolution kernels of another size or dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def fit_kernel(weight: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A convolution kernel at another size per axis, and in another number of dimensions.

    Shorter along an axis: what lies outside is folded onto the ends, so that 3 -> 1 is the sum. On an image that does
    not change along that axis the response stays what it was (away from the zero padding at the image's borders).
    Longer: zeros outside, so the layer computes exactly the same. 2D -> 3D adds a first axis of one (each slice is
    treated as before) and then grows it; 3D -> 2D sums the first axis up.

    Args:
        weight: (out, in, *kernel) with odd kernel sizes, 2D or 3D.
        size: kernel size of the target, 2D or 3D, odd.

    Returns:
        (out, in, *size).
    """
    if weight.ndim - 2 < len(size):
        weight = weight.unsqueeze(2)
    elif weight.ndim - 2 > len(size):
        weight = _fit_axis(weight, 2, 1).squeeze(2)
    for axis, wanted in enumerate(size, start=2):
        weight = _fit_axis(weight, axis, wanted)
    return weight


def _fit_axis(weight: torch.Tensor, axis: int, wanted: int) -> torch.Tensor:
    have = weight.shape[axis]
    if have < wanted:
        margin = (wanted - have) // 2
        padding = [0, 0] * (weight.ndim - 1 - axis) + [margin, wanted - have - margin]
        return torch.nn.functional.pad(weight, padding)
    if have > wanted:
        first = (have - wanted) // 2
        kept = weight.narrow(axis, first, wanted).clone()
        kept.narrow(axis, 0, 1).add_(weight.narrow(axis, 0, first).sum(axis, keepdim=True))
        after = have - first - wanted
        kept.narrow(axis, wanted - 1, 1).add_(weight.narrow(axis, first + wanted, after).sum(axis, keepdim=True))
        return kept
    return weight
