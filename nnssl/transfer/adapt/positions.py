"""Position embeddings of a transformer for another patch size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.nn import functional

from nnssl.errors import NnsslError


def fit_position_embedding(pos: torch.Tensor, old_grid: Sequence[int], new_grid: Sequence[int]) -> torch.Tensor:
    """Learned position embeddings on another grid of tokens, by linear interpolation.

    The grid spans the whole patch before and after, so a token gets the embedding of its relative place in the patch.
    An embedding that is constant, or (away from the border) linear in that place, stays exactly so.

    Args:
        pos: (1, N, C) with the N tokens of `old_grid` in C order, or (1, C, *old_grid).
        old_grid, new_grid: tokens per axis, one to three axes.

    Returns:
        In the layout of `pos`, for `new_grid`.

    Raises:
        NnsslError: `pos` is not of `old_grid`.
    """
    flat = pos.ndim == 3 and pos.shape[1] == prod(old_grid)
    if not flat and (tuple(pos.shape[2:]) != tuple(old_grid) or pos.shape[0] != 1):
        raise NnsslError(
            f"position embeddings of shape {tuple(pos.shape)} do not belong to a grid of {'x'.join(map(str, old_grid))} "
            "tokens: the file's patch size is not the one it was trained with"
        )
    if tuple(old_grid) == tuple(new_grid):
        return pos.clone()
    channels = pos.shape[2] if flat else pos.shape[1]
    image = pos[0].T.reshape(1, channels, *old_grid) if flat else pos
    mode = ("linear", "bilinear", "trilinear")[len(old_grid) - 1]
    fitted = functional.interpolate(image.double(), size=tuple(new_grid), mode=mode, align_corners=False).to(pos.dtype)
    return fitted.reshape(channels, -1).T.unsqueeze(0).contiguous() if flat else fitted
