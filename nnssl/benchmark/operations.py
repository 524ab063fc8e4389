"""Floating-point operations of a step, counted while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nnssl.methods import CropBatch
from nnssl.trainers.pretraining import nnsslTrainer

aten = torch.ops.aten


def operation_counter() -> FlopCounterMode:
    """A context that counts the operations of convolutions and matrix products; `get_total_flops()` has the sum.

    A multiplication with its addition is two. Per sample, and per pair of channels that a weight joins, there are

    - convolution: positions of the output x positions of the kernel, padding counted as any other input;
    - its gradients, of input and weights: as many, each;
    - transposed convolution, and each of its gradients: pairs of a position of the input and one of the kernel that meet at
      a position of the output.

    The last is where torch's own formulas differ: they count every position of the input with the whole kernel, whatever of
    that is cut off. Tiles read their gradient with a margin and let the transposed convolution cut off what lies beyond the
    tile, so that a tile of one position would count 27 times what is computed. Of grouped convolutions torch counts the
    gradient of the weights as if there were no groups.
    """
    formulas = {
        aten.convolution: _convolution,
        aten._convolution: _convolution,
        aten.cudnn_convolution: _plain,
        aten.convolution_overrideable: _convolution,
        aten._slow_conv2d_forward: _plain,
        aten.convolution_backward: _backward,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def count_flops(trainer: nnsslTrainer, batch: CropBatch) -> int:
    """Operations of one step, as it is computed, uncompiled; see `operation_counter`."""
    network, trainer.network = trainer.network, trainer.method
    try:
        with operation_counter() as counter:
            trainer._step(batch)
    finally:
        trainer.network = network
    return int(counter.get_total_flops())


# Arguments are those of the operators; shapes stand for tensors.


def _convolution(
    x: Sequence[int], weight: Sequence[int], bias: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, *others: Any, out_shape: Sequence[int], **named: Any,
) -> int:  # fmt: skip
    if transposed:
        return _meeting(x, weight, out_shape, stride, padding, dilation)
    return _plain(x, weight, out_shape=out_shape)


def _plain(x: Sequence[int], weight: Sequence[int], *others: Any, out_shape: Sequence[int], **named: Any) -> int:
    return 2 * x[0] * prod(out_shape[2:]) * prod(weight)


def _backward(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], bias: Any, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Any, groups: int,
    wanted: Sequence[bool], *, out_shape: Any, **named: Any,
) -> int:  # fmt: skip
    once = (
        _meeting(x, weight, gradient, stride, padding, dilation)
        if transposed
        else _plain(x, weight, out_shape=gradient)
    )
    return once * sum(bool(w) for w in wanted[:2])


def _meeting(
    x: Sequence[int], weight: Sequence[int], out: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> int:  # fmt: skip
    """Of a transposed convolution: input i meets position k of the kernel at output i * stride + k * dilation - padding."""
    axes = len(x) - 2
    pairs = [
        sum(0 <= i * s + k * d - p < end for i in range(size) for k in range(kernel))
        for size, kernel, end, s, p, d in zip(
            x[2:], weight[2:], out[2:], *(_each(n, axes) for n in (stride, padding, dilation))
        )
    ]
    return 2 * x[0] * prod(weight[:2]) * prod(pairs)


def _each(numbers: Sequence[int], axes: int) -> Sequence[int]:
    """One number may stand for all axes."""
    return list(numbers) * axes if len(numbers) == 1 else numbers
