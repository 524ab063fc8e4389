"""The number format of a run's convolutions and matrix products; weights and losses stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from nnssl.errors import NnsslError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]


def settle_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """The format to compute in.

    Args:
        wanted: `auto` is bfloat16 on a GPU that computes in it, float16 on an older one, float32 elsewhere.
        device: of the run.

    Raises:
        NnsslError: the device cannot.
    """
    if wanted == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    dtype: torch.dtype = getattr(torch, wanted)
    if dtype is torch.float16 and device.type != "cuda":
        raise NnsslError(f"precision=float16 needs a CUDA GPU, this is {device.type}: take bfloat16 or float32")
    if dtype is torch.bfloat16 and device.type not in ("cuda", "cpu"):
        raise NnsslError(f"precision=bfloat16 is not for {device.type}: take float32")
    return dtype


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Context of a forward pass."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def settle_memory_format(wanted: MemoryFormat, device: torch.device, precision: torch.dtype) -> MemoryFormat:
    """`auto` is channels-last on a GPU in reduced precision, whose tensor cores read it, and contiguous elsewhere."""
    if wanted != "auto":
        return wanted
    return "channels_last" if device.type == "cuda" and precision != torch.float32 else "contiguous"


def loss_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """float16 gradients underflow without one; bfloat16 has float32's range and needs none."""
    return torch.amp.GradScaler(device.type) if dtype is torch.float16 else None
