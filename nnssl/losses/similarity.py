"""Cosine of every row with every other, in full precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cosine_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., N, D) and (..., M, D) -> (..., N, M) in [-1, 1], float32.

    A matrix product within autocast is computed in half precision even if its arguments are float32. Divided by a
    temperature of 0.1, the error of bfloat16 would be a few per cent of the loss, so autocast is switched off here.
    """
    kind = a.device.type if a.device.type in ("cuda", "cpu") else "cpu"  # the trainer uses autocast on no other device
    with torch.autocast(kind, enabled=False):
        return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).transpose(-1, -2)
