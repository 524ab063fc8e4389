"""Before the first step: does this device compute convolutions in reduced precision as it should?

Libraries have been silently wrong in bfloat16: cuDNN 9.10.2 for large 3D shapes, torch 2.15 on a CPU for the gradient of the
weights where a map has two positions along an axis. One convolution of each stage of the run's encoder, at the run's own
shape, forward and backward, is compared with float32 on the same rounded numbers: only rounding may differ.
"""

from __future__ import annotations

from typing import Any

import torch
from nnssl.trainers.executor import out_of_memory
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods import Method
from nnssl.networks.sparse import CONVOLUTIONS

ALLOWED = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative error of one number: twice the rounding of the format."""
SPREAD = 0.02
"""Of the root mean square: what the order of a long sum may add."""


def check_convolutions(method: Method, device: torch.device, precision: torch.dtype, batch: int) -> list[str]:
    """Compare; with float32 there is nothing to compare and only the versions are told.

    Args:
        method: on its device.
        device: of the run.
        precision: of the run's convolutions.
        batch: crops at once.

    Returns:
        A line for the log.

    Raises:
        NnsslError: a result is wrong beyond what rounding explains.
    """
    if precision == torch.float32:
        return [f"libraries: {versions(device)}"]
    short = str(precision).removeprefix("torch.")
    worst, too_large = 0.0, 0
    stages = one_per_stage(method)
    for conv, size in stages:
        shape = (batch, conv.in_channels, *size)
        try:
            errors = convolution_errors(conv, shape, device, precision)
        except (MemoryError, RuntimeError) as failure:  # two precisions at once take more than a step may need
            if not out_of_memory(failure):
                raise
            too_large += 1
            continue
        for what, error in errors.items():
            if not error <= SPREAD:  # not a number is wrong too
                name = f"one from {conv.in_channels} to {conv.out_channels} channels on {'x'.join(map(str, shape))}"
                raise NnsslError(
                    f"this device computes convolutions in {short} wrongly: {what} of {name} is off by {error:.3g} times "
                    f"its typical size ({versions(device)}). Use --set precision=float32, or another version of torch"
                )
            worst = max(worst, error)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # a dry run tells the memory of the steps
    lines = [
        f"self-check: {len(stages) - too_large} convolutions in {short}, one of each stage, agree with float32 (at most "
        f"{worst:.1g} beyond rounding); {versions(device)}"
    ]
    if too_large:
        lines.append(
            f"self-check: of {too_large} stage(s) left out, because the memory of {device} is too small for it"
        )
    return lines


def one_per_stage(method: Method) -> list[tuple[Any, tuple[int, ...]]]:
    """A convolution of each stage of the encoder, with as many channels in as out if there is one, and its input's size."""
    encoder: Any = method.exported().encoder
    stages = list(encoder.stages) if isinstance(encoder.stages, nn.Sequential) else [encoder]
    size, found = list(method.geometry.patch_size), []
    for stage, stride in zip(stages, encoder.strides):
        size = [max(n // s, 1) for n, s in zip(size, stride)]
        every: list[Any] = [m for m in stage.modules() if type(m) in CONVOLUTIONS]
        convs = [m for m in every if max(m.kernel_size) > 1] or every
        same = [c for c in convs if c.in_channels == c.out_channels and max(c.stride) == 1]
        if convs:
            found.append(((same or convs)[-1], tuple(size)))
    return found


@torch.no_grad()
def convolution_errors(
    conv: Any, shape: tuple[int, ...], device: torch.device, precision: torch.dtype
) -> dict[str, float]:
    """Largest error of output, gradient of the input and gradient of the weight, less one rounding, in units of their RMS.

    Args:
        conv: a convolution; its weights are not used.
        shape: (B, C, *spatial) of its input.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape[-1], generator=draw).to(device) + torch.randn(*shape[:-1], 1, generator=draw).to(device)
    weight = torch.randn(conv.weight.shape, generator=draw).to(device)
    if conv.weight.is_contiguous(memory_format=torch.channels_last_3d) and weight.ndim == 5:
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
    gradient = None
    answers = []
    for kind in (precision, torch.float32):
        given, kernel = (t.to(precision).to(kind) for t in (x, weight))
        setting = (conv.stride, conv.padding, conv.dilation, False, [0] * len(conv.stride), conv.groups)
        out = torch.ops.aten.convolution(given, kernel, None, *setting)
        if gradient is None:
            positions = out.numel() / out.shape[1]  # sums over them stay within float16's range
            gradient = out.float().flip(tuple(range(1, out.ndim)))
            gradient = (gradient / (gradient.square().mean().sqrt() * positions**0.5)).to(precision)
        back = torch.ops.aten.convolution_backward(
            gradient.to(kind), given, kernel, None, *setting, [True, True, False]
        )
        answers.append((out, back[0], back[1]))
    names = ("the output", "the gradient of the input", "the gradient of the weight")
    return {name: _error(a.float(), b, precision) for name, a, b in zip(names, *answers)}


def _error(answer: torch.Tensor, exact: torch.Tensor, precision: torch.dtype) -> float:
    beyond = (answer - exact).abs() - ALLOWED[precision] * exact.abs()
    return float(beyond.clamp(min=0).max() / exact.square().mean().sqrt())


def versions(device: torch.device) -> str:
    """Of the libraries that compute."""
    if device.type != "cuda":
        return f"torch {torch.__version__}"
    cudnn = torch.backends.cudnn.version() or 0
    name = torch.cuda.get_device_name(device)
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}, {name}"
