"""GPUs: whether torch sees them, and whether every device computes convolutions in reduced precision as it should."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from nnssl.doctor.findings import Finding, ok, problem, warning

CHANNELS = 32
SHAPES = {"cuda": (2, CHANNELS, 64, 96, 96), "cpu": (1, 8, 12, 16, 16)}
"""(B, C, Z, Y, X) of the trial convolution. Libraries have been wrong for large shapes only."""


def gpus() -> Iterator[Finding]:
    """What torch sees, beside what the driver sees."""
    import torch

    there = _of_driver()
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen:
        names = [
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in range(seen)
        ]
        yield ok("GPU", ", ".join(names))
    elif there and torch.version.cuda is None:
        yield problem("GPU", f"{there} there, but this torch is built for CPUs", "install a CUDA build (pytorch.org)")
    elif there:
        yield problem(
            "GPU",
            f"{there} there, torch (CUDA {torch.version.cuda}) cannot use it",
            "see CUDA_VISIBLE_DEVICES and driver",
        )
    elif torch.backends.mps.is_available():
        yield ok("GPU", "Apple (mps)")
    else:
        yield warning("GPU", "none: pretraining on a CPU is for trials and tiny data", "use a machine with a CUDA GPU")


def _of_driver() -> str:
    """Names of GPUs by the driver's own tool; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return ", ".join(lines) if done.returncode == 0 else ""


def precision() -> Iterator[Finding]:
    """A 3D convolution, forward and backward, in bfloat16 and float16 against float32 on every device."""
    import torch

    from nnssl.trainers.self_check import SPREAD, Convolution, convolution_errors, versions

    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        for kind in (torch.bfloat16,) if device.type == "cpu" else (torch.bfloat16, torch.float16):
            name = str(kind).removeprefix("torch.")
            about = f"{name} on {device}"
            if device.type == "cuda" and kind is torch.bfloat16:
                with torch.cuda.device(device):
                    if not torch.cuda.is_bf16_supported(including_emulation=False):
                        yield ok(about, "not computed by this GPU; precision=auto takes float16")
                        continue
            shape = SHAPES[device.type]
            conv = torch.nn.Conv3d(shape[1], shape[1], 3, padding=1, device=device)
            try:
                errors = convolution_errors(Convolution.of(conv, shape), device, kind)
            except RuntimeError as error:  # out of memory beside another job, or a library that lacks the format
                yield warning(
                    about, f"could not be tried ({str(error).splitlines()[0][:120]})", "free the device, repeat"
                )
                continue
            worst = max(errors, key=lambda key: errors[key])
            if errors[worst] <= SPREAD:
                yield ok(about, f"a 3D convolution agrees with float32 ({versions(device)})")
            else:
                yield problem(
                    about,
                    f"{worst} of a 3D convolution is off by {errors[worst]:.2g} of its size ({versions(device)})",
                    "update torch or cuDNN, or pretrain with --set precision=float32",
                )
