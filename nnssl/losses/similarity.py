"""Cosine of every row with every other, in full precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.precision import full_precision


def cosine_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., N, D) and (..., M, D) -> (..., N, M) in [-1, 1], float32.

    Divided by a temperature of 0.1, the error of bfloat16 would be a few per cent of a loss.
    """
    with full_precision(a):
        return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).transpose(-1, -2)
