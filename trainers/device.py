"""What cuDNN is told before a run computes anything on a GPU; other devices are left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def prepare_device(device: torch.device) -> None:
    """On a GPU, cuDNN tries its algorithms on the first convolution of every size and keeps the fastest.

    The sizes of a run stay the same. nnU-Net sets this in its `run_training`, which `nnssl_pretrain` does not go through.
    Which one is the fastest may change from run to run, and the last digits with it.
    """
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


@contextmanager
def without_search() -> Iterator[None]:
    """Algorithms by cuDNN's rules for a while: trying them takes memory for a moment that a step does not need."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
