"""Kernels before a norm, brought to the size of freshly initialised ones.

A convolution whose result is normalised computes the same function at any scale of its kernel, but a step of an
optimiser turns a large kernel less than a small one: the effective rate is the rate over the squared norm (van Laarhoven
2017, arXiv 1706.05350). Kernels grow in training, so pretrained ones would learn more slowly than the fresh ones of a
control at the same rate. Rescaling gives both the same start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

SLOPE = 1e-2
"""Of the leaky ReLU that nnU-Net's He initialisation is made for."""


def fresh_norm(kernel: torch.Tensor) -> float:
    """Expected Frobenius norm of a kernel (out, in, *size) after He initialisation: sqrt(2 / (1 + slope^2) * out)."""
    return math.sqrt(2.0 / (1.0 + SLOPE**2) * kernel.shape[0])


def rescale_kernels(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int]:
    """A state whose convolutions before norms have kernels of fresh size; their biases are scaled alike.

    Args:
        state: of a U-Net of nnU-Net's, first names or all; second names of a tensor get the very same tensor.

    Returns:
        The new state, and how many kernels were changed. With a norm's epsilon of zero the network computes the same.
    """
    changed: dict[int, torch.Tensor] = {}
    kernels = 0
    for key, kernel in state.items():
        block, dot, last = key.rpartition(".conv.weight")
        if not dot or last or f"{block}.norm.weight" not in state or id(kernel) in changed:
            continue
        size = float(kernel.detach().norm())
        if size == 0:
            continue
        factor = fresh_norm(kernel) / size
        changed[id(kernel)] = kernel * factor
        kernels += 1
        bias = state.get(f"{block}.conv.bias")
        if bias is not None:
            changed[id(bias)] = bias * factor
    return {key: changed.get(id(value), value) for key, value in state.items()}, kernels
