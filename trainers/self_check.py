"""Before the first step: does this device compute convolutions in reduced precision as it should?

Libraries have been silently wrong in bfloat16: cuDNN 9.10.2 for large 3D shapes, torch 2.15 on a CPU for the gradient of the
weights where a map has two positions along an axis. The convolutions that the run itself computes, the largest of every kind
and size of map, forward and backward, are compared with float32 on the same rounded numbers: only rounding may differ.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from nnssl.trainers.trial import copied, out_of_memory, own_draws, random_crops, views_of
from torch.utils._python_dispatch import TorchDispatchMode

from nnssl.errors import NnsslError
from nnssl.methods import Method

ALLOWED = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative error of one number: twice the rounding of the format."""
SPREAD = 0.02
"""Of the root mean square: what the order of a long sum may add."""


_CONVOLUTION = torch.ops.aten.convolution.default


class Convolution(NamedTuple):
    """What torch is asked to compute.

    Attributes:
        shape: (B, C, *spatial) of the input.
        weight: shape of the weight.
        transposed: output sizes grow with the stride; `rest` is then torch's output padding.
        channels_last: memory order of the weight.
    """

    shape: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    rest: tuple[int, ...] = ()
    groups: int = 1
    channels_last: bool = False

    @classmethod
    def of(cls, conv: Any, shape: tuple[int, ...]) -> Convolution:
        """That of a module on an input of this shape."""
        return cls(shape, tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, groups=conv.groups)

    @property
    def channels(self) -> tuple[int, int]:
        """Into and out of it."""
        out = self.weight[1] if self.transposed else self.weight[0]
        return self.shape[1], out * (self.groups if self.transposed else 1)

    def __str__(self) -> str:
        into, out = self.channels
        kind = "a transposed one" if self.transposed else "one"
        return f"{kind} from {into} to {out} channels on {'x'.join(map(str, self.shape))}"


class _Convolutions(TorchDispatchMode):
    """Notes the convolutions that are computed while it is active, those of a backward pass through them left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Convolution] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _CONVOLUTION:
            x, weight, _, stride, padding, dilation, transposed, rest, groups = args
            last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.ndim)
            ordered = last is not None and weight.is_contiguous(memory_format=last) and not weight.is_contiguous()
            stride, padding, dilation, rest = (tuple(n) for n in (stride, padding, dilation, rest))
            self.seen.add(
                Convolution(
                    tuple(x.shape), tuple(weight.shape), stride, padding, dilation, transposed, rest, groups, ordered
                )
            )
        return func(*args, **(kwargs or {}))


def check_convolutions(
    method: Method,
    device: torch.device,
    precision: torch.dtype,
    batch: int,
    autocast: AbstractContextManager | None = None,
) -> list[str]:
    """Compare; with float32 there is nothing to compare and only the versions are told.

    Args:
        method: on its device, with its executor.
        device: of the run.
        precision: of the run's convolutions.
        batch: crops at once.
        autocast: the context that a training step runs in; without it, torch's for this precision.

    Returns:
        Lines for the log.

    Raises:
        NnsslError: a result is wrong beyond what rounding explains.
    """
    if precision == torch.float32:
        return [f"libraries: {versions(device)}"]
    short = str(precision).removeprefix("torch.")
    worst, too_large = 0.0, 0
    with autocast or torch.autocast(device.type, precision):
        chosen = largest(computed_by(method, device), batch)
    for convolution in chosen:
        try:
            errors = convolution_errors(convolution, device, precision)
        except (MemoryError, RuntimeError) as failure:  # two precisions at once take more than a step may need
            if not out_of_memory(failure):
                raise
            too_large += 1
            continue
        for what, error in errors.items():
            if not error <= SPREAD:  # not a number is wrong too
                raise NnsslError(
                    f"this device computes convolutions in {short} wrongly: {what} of {convolution} is off by {error:.3g} "
                    f"times its typical size ({versions(device)}). Use --set precision=float32, or another version of torch"
                )
            worst = max(worst, error)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # a dry run tells the memory of the steps
    lines = [
        f"self-check: {len(chosen) - too_large} convolutions of a step in {short}, the largest of each kind, agree with "
        f"float32 (at most {worst:.1g} beyond rounding); {versions(device)}"
    ]
    if too_large:
        lines.append(
            f"self-check: {too_large} more left out, because the memory of {device} is too small for two at once"
        )
    return lines


def computed_by(method: Method, device: torch.device) -> set[Convolution]:
    """The convolutions of a forward and backward pass over one crop, up to where memory does not suffice.

    Done on a copy of the method, so that nothing is left behind.
    """
    noted = _Convolutions()
    try:
        with own_draws(device):
            trial = copied(method)
            with noted:
                trial(views_of(trial, random_crops(trial, 1, device))).total.backward()
    except (MemoryError, RuntimeError) as failure:
        if not out_of_memory(failure):
            raise
    return noted.seen


def largest(seen: set[Convolution], batch: int) -> list[Convolution]:
    """Of each size of map, kernel and stride, transposed or not, that with most multiplications, for a whole batch.

    Args:
        seen: for one crop.
        batch: crops; one crop may be several tiles.
    """
    found: dict[tuple, tuple[int, Convolution]] = {}
    for one in seen:
        kind = (one.shape[2:], one.weight[2:], one.stride, one.transposed)
        into, out = one.channels
        work = one.shape[0] * into * out
        if kind not in found or found[kind][0] < work:
            found[kind] = (work, one._replace(shape=(one.shape[0] * batch, *one.shape[1:])))
    return [one for _, one in found.values() if max(one.weight[2:]) > 1]


@torch.no_grad()
def convolution_errors(asked: Convolution, device: torch.device, precision: torch.dtype) -> dict[str, float]:
    """Largest error of output, gradient of input and gradient of weight, less one rounding, in units of their RMS."""
    draw = torch.Generator().manual_seed(0)
    shape = asked.shape
    x = torch.randn(shape[-1], generator=draw).to(device) + torch.randn(*shape[:-1], 1, generator=draw).to(device)
    weight = torch.randn(asked.weight, generator=draw).to(device)
    if asked.channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last_3d if weight.ndim == 5 else torch.channels_last)
    rest = asked.rest or (0,) * len(asked.stride)
    setting = (asked.stride, asked.padding, asked.dilation, asked.transposed, rest, asked.groups)
    gradient = None
    answers = []
    for kind in (precision, torch.float32):
        given, kernel = (t.to(precision).to(kind) for t in (x, weight))
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
