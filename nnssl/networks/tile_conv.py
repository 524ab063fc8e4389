"""A convolution on tiles that are neighbours of each other.

Forward: read every tile with the margin that the kernel needs, convolve without padding. Backward: the gradient of an
input position comes from the outputs whose kernel reached it, so the tiles of the gradient, too, are read with a margin and
convolved (transposed). Both directions only read, so nothing is added up in an order that could change. The margin is read
again for the gradient of the weights instead of being kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from nnssl.networks.tile_copy import with_margin
from nnssl.networks.tile_index import NeighbourRows


class _Reach(NamedTuple):
    """Numbers of one convolution, per axis unless it says otherwise."""

    read: tuple[int, ...]
    """Edge of what is read for a tile."""
    answer: tuple[int, ...]
    """Edge of what is read of the gradient for a tile."""
    cut: tuple[int, ...]
    """What the transposed convolution leaves out on both sides."""
    rest: tuple[int, ...]
    """What it adds behind."""
    tile: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def fits(conv: Any, tile: tuple[int, ...]) -> bool:
    """Whether a convolution is one that `tile_conv` can do: zero padding in numbers, an output for every stride of input."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    # (t + 2p - reach) // s + 1 = t / s outputs
    lost = [2 * p - d * (k - 1) - 1 for p, k, d in zip(conv.padding, conv.kernel_size, conv.dilation)]
    return all(t % s == 0 and -s <= m < 0 for t, s, m in zip(tile, conv.stride, lost))


def tile_conv(x: torch.Tensor, conv: Any, around: NeighbourRows) -> torch.Tensor:
    """(T, C, *tile) to (T, C', *(tile / stride)), as the `nn.ConvNd` would do it on the dense tensor with zeros between."""
    kernel, stride, padding, dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    if all(p == 0 and k <= s and d == 1 for k, s, p, d in zip(kernel, stride, padding, dilation)):
        return conv(x)  # it looks at nothing beyond the tile
    tile = tuple(x.shape[2:])
    out = [t // s for t, s in zip(tile, stride)]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    before = list(padding)
    behind = [(n - 1) * s + r - p - t for n, s, r, p, t in zip(out, stride, reach, padding, tile)]
    # Output o reaches input i for i = o s - p + (0 ... r - 1).
    above = [(r - 1 - p) // s for r, s, p in zip(reach, stride, padding)]
    below = [1 + (p - 1) // s for s, p in zip(stride, padding)]
    answer = [a + n + b for a, n, b in zip(above, out, below)]
    cut = [a * s + p for a, s, p in zip(above, stride, padding)]
    full = [(g - 1) * s + r - 2 * c for g, s, r, c in zip(answer, stride, reach, cut)]
    numbers = _Reach(
        read=tuple(a + t + b for a, t, b in zip(before, tile, behind)),
        answer=tuple(answer),
        cut=tuple(cut),
        rest=tuple(max(t - f, 0) for t, f in zip(tile, full)),
        tile=tile,
        stride=tuple(stride),
        dilation=tuple(dilation),
        groups=conv.groups,
    )
    x, weight, bias = _autocast(x, conv.weight, conv.bias)
    reads, answers = around.rows(tile, before, behind), around.rows(out, above, below)
    # At stride 1 they are one table, and torch.compile wants no tensor twice.
    return _TileConv.apply(x, weight, bias, reads, None if answers is reads else answers, numbers)


def _autocast(*tensors: torch.Tensor | None) -> list[Any]:
    """What autocast would do before a convolution; within an autograd function it cannot see the backward pass."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


class _TileConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        reads: torch.Tensor,
        answers: torch.Tensor | None,
        n: _Reach,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, reads, answers)
        ctx.numbers, ctx.has_bias = n, bias is not None
        none = [0] * len(n.stride)
        return torch.convolution(
            with_margin(x, reads, n.read), weight, bias, n.stride, none, n.dilation, False, none, n.groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        x, weight, reads, answers = ctx.saved_tensors
        n: _Reach = ctx.numbers
        none = [0] * len(n.stride)
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            spread = with_margin(gradient, reads if answers is None else answers, n.answer)
            of_x = torch.convolution(spread, weight, None, n.stride, n.cut, n.dilation, True, n.rest, n.groups)
            for axis, t in enumerate(n.tile, start=2):
                of_x = of_x.narrow(axis, 0, t)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            wanted = [False, ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                gradient, with_margin(x, reads, n.read), weight, [weight.shape[0]] if ctx.has_bias else None,
                n.stride, none, n.dilation, False, none, n.groups, wanted,
            )  # fmt: skip
        return of_x, of_weight, of_bias, None, None, None
