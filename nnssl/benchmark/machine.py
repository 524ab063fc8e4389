"""What the machine can do and what a step takes of it: matrix products, memory."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
import time
from pathlib import Path

import torch

from nnssl.benchmark.clock import wait
from nnssl.trainers.pretraining import nnsslTrainer

_EDGE = {"cuda": 8192, "mps": 4096, "cpu": 1024}
_PRODUCTS = 10
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several products of square matrices in a precision. Two operations per multiply-add."""
    n = _EDGE[device.type]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(_PRODUCTS):
        wait(device)
        begin = time.perf_counter()
        torch.matmul(a, b)
        wait(device)
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)


def step_precision(trainer: nnsslTrainer) -> torch.dtype:
    """What a training step multiplies in."""
    with trainer._autocast():
        if torch.is_autocast_enabled(trainer.device.type):
            return torch.get_autocast_dtype(trainer.device.type)
    return torch.float32


def describe_device(device: torch.device) -> str:
    """Name of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(info) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class PeakMemory:
    """Largest memory in use since this was made, beyond what was in use before: of the GPU, or of this process.

    A process tells a peak that can be started anew on Linux only.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before: float | None = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = float(torch.cuda.memory_allocated(device))
        elif device.type == "cpu" and sys.platform == "linux":
            _give_back()
            try:
                _CLEAR.write_text("5")  # man proc: resets VmHWM
            except OSError:  # some containers forbid it
                return
            self._before = _status("VmRSS")

    def peak(self) -> int | None:
        """Bytes; None where it cannot be measured."""
        if self._before is None:
            return None
        now = float(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else _status("VmHWM")
        return None if now is None else int(max(0.0, now - self._before))


def _give_back() -> None:
    """Freed memory to the system, so that what comes next is not hidden in it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(key: str) -> float | None:
    """An entry of this process's status in bytes."""
    for line in _lines(_STATUS):
        if line.startswith(f"{key}:"):
            return float(line.split()[1]) * 1024
    return None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
