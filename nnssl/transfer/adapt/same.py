"""Weights for a network of the same description: by name, for networks that the matching by role does not know."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.keys import first_name, is_second_name
from nnssl.transfer.report import LoadReport, part_of


def same_network(
    source: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor], *, decoder: bool
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """All weights of a target whose network is the file's own, such as a U-Net on the same timm backbone.

    Args:
        source: pretrained weights.
        fresh: state of the freshly initialised target, without segmentation layers.
        decoder: take the decoder too.

    Returns:
        The state with all of `fresh`'s keys, and the report. Buffers (statistics of batch norm) count for nothing in it.

    Raises:
        NnsslError: a tensor of that name has another shape, as with other input channels.
    """
    state, report, used = dict(fresh), LoadReport(), set()
    for key, value in fresh.items():
        if is_second_name(key):
            continue
        found = source.get(key) if decoder or not key.startswith("decoder.") else None
        if found is not None and found.shape != value.shape:
            raise NnsslError(
                f"{key}: the file has {tuple(found.shape)}, the target {tuple(value.shape)}; networks other than nnU-Net's "
                "own U-Nets are only carried over to the very same network and channels"
            )
        if found is not None:
            state[key] = found.to(value.dtype)
            used.add(key)
        if not _is_buffer(key):
            (report.new if found is None else report.loaded)[part_of(key)] += value.numel()
    for key in fresh:
        if is_second_name(key):
            state[key] = state[first_name(key)]
    for key, value in source.items():
        if key not in used and not _is_buffer(key) and not is_second_name(key):
            report.unused[part_of(key)] += value.numel()
    return state, report


def _is_buffer(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))
