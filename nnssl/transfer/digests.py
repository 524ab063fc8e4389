"""Digests of tensors: whether the weights in a file are still those that were written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from nnssl.transfer.adapt.keys import is_second_name


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values, as hexadecimal digits. The same on every machine of one endianness."""
    kind = f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(str(n) for n in tensor.shape)} "
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(kind.encode() + values.numpy().tobytes()).hexdigest()


def digests_of(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Digest of every tensor under its first name."""
    return {k: tensor_digest(v) for k, v in weights.items() if not is_second_name(k)}


def changed(weights: Mapping[str, torch.Tensor], digests: Mapping[str, str]) -> list[str]:
    """Names of tensors that are not what the digests say: changed, missing, or added."""
    now = digests_of(weights)
    return sorted(k for k in {*now, *digests} if now.get(k) != digests.get(k))
