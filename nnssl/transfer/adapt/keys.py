"""The roles of a U-Net's weights, whatever number a key gives them in one network or another."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_SKIP = re.compile(r"\.skip\.\d+\.")
_OTHERS = re.compile(r"\.all_modules\.[1-9]\.")
_DECODER = re.compile(r"^decoder\.(stages|transpconvs)\.(\d+)\.")


def canonical(key: str, stages: int) -> str:
    """A key by role.

    A residual block's projection is `skip.0` or `skip.1` depending on whether it pools first; a decoder counts its
    stages from the deepest one, so that their numbers shift with the depth of the network. By role they are
    `skip.proj`, and `level`, the number of the encoder stage at the same resolution.

    Args:
        key: as dynamic_network_architectures names it.
        stages: number of encoder stages.
    """
    key = _SKIP.sub(".skip.proj.", key)
    found = _DECODER.match(key)
    if found:
        level = stages - 2 - int(found.group(2))
        key = f"decoder.{found.group(1)}.level{level}.{key[found.end() :]}"
    return key


def by_role(weights: Mapping[str, torch.Tensor], stages: int) -> dict[str, torch.Tensor]:
    """Weights by role, every tensor once: without the second names (`all_modules`, `decoder.encoder`)."""
    return {canonical(k, stages): v for k, v in weights.items() if not is_second_name(k)}


def is_second_name(key: str) -> bool:
    """Whether a key is another name of a tensor that stands under a first one."""
    return ".all_modules." in key or key.startswith("decoder.encoder.")


def first_name(key: str) -> str:
    """The first name of a tensor. In `all_modules` the convolution is number 0; else only the norm has weights."""
    if key.startswith("decoder.encoder."):
        key = key.removeprefix("decoder.")
    return _OTHERS.sub(".norm.", key.replace(".all_modules.0.", ".conv."))
