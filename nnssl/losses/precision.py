"""Matrix products in float32 within autocast."""

from __future__ import annotations

import torch


def full_precision(x: torch.Tensor) -> torch.autocast:
    """Context without autocast on the device of x.

    Within autocast a matrix product is computed in half precision even if its arguments are float32: float16 overflows at
    65504, and bfloat16 has three digits. Arguments made before, by a network, still need `.float()`.
    """
    kind = x.device.type if x.device.type in ("cuda", "cpu") else "cpu"  # the trainer uses autocast on no other device
    return torch.autocast(kind, enabled=False)
