"""Weights for a network of the same description: by name, for networks that the matching by role does not know."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.channels import ChannelMap, fit_input_channels
from nnssl.transfer.adapt.keys import first_name, is_second_name
from nnssl.transfer.report import LoadReport, part_of


def same_network(
    source: Mapping[str, torch.Tensor],
    fresh: Mapping[str, torch.Tensor],
    *,
    decoder: bool,
    channels: tuple[int, int],
    channel_map: ChannelMap | None = None,
    stage_of: Mapping[str, int] | None = None,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """All weights of a target whose network is the file's own, such as a U-Net on the same timm backbone.

    Input channels may differ: the first convolution is then adapted, and decoder layers that see the image stay new.

    Args:
        source: pretrained weights.
        fresh: state of the freshly initialised target, without segmentation layers.
        decoder: take the decoder too.
        channels: of the file's images and of the target's.
        channel_map: see `nnssl.transfer.adapt.channels`.
        stage_of: encoder stage by name of a parameter, for the report.

    Returns:
        The state with all of `fresh`'s keys, and the report. Buffers (statistics of batch norm) count for nothing in it.

    Raises:
        NnsslError: a tensor of that name has another shape.
    """
    state, report, used = dict(fresh), LoadReport(), set()
    for key, value in fresh.items():
        if is_second_name(key):
            continue
        part = f"encoder stage {stage_of[key]}" if stage_of and key in stage_of else part_of(key)
        found = source.get(key) if decoder or not key.startswith("decoder.") else None
        how = ""
        if found is not None and (found.shape != value.shape or (channel_map and _sees_image(found, value, channels))):
            found, how = _fitted(key, found, value, channels, channel_map)
        if found is not None:
            state[key] = found.to(value.dtype)
            used.add(key)
        if how:
            report.how[part].add(how)
        if not _is_buffer(key):
            (report.new if found is None else report.adapted if how else report.loaded)[part] += value.numel()
    for key in fresh:
        if is_second_name(key):
            state[key] = state[first_name(key)]
    for key, value in source.items():
        if key not in used and not _is_buffer(key) and not is_second_name(key):
            report.unused[part_of(key)] += value.numel()
    return state, report


def _fitted(
    key: str, found: torch.Tensor, value: torch.Tensor, channels: tuple[int, int], channel_map: ChannelMap | None
) -> tuple[torch.Tensor | None, str]:
    """A first convolution for the target's channels; None for a decoder layer that cannot be fitted."""
    if key.startswith("encoder.") and _sees_image(found, value, channels):
        by_map = " by map" if channel_map else ""
        return (
            fit_input_channels(found, channels[1], channel_map),
            f"{channels[0]} -> {channels[1]} input channels{by_map}",
        )
    if key.startswith("decoder.") and channels[0] != channels[1]:
        return None, ""
    if key.startswith("decoder."):
        return found, ""
    raise NnsslError(
        f"{key}: the file has {tuple(found.shape)}, the target {tuple(value.shape)}; networks other than nnU-Net's "
        "own U-Nets are only carried over to the very same network"
    )


def _sees_image(found: torch.Tensor, value: torch.Tensor, channels: tuple[int, int]) -> bool:
    """Whether a convolution is the one that reads the image."""
    a, b = found.shape, value.shape
    return len(a) == len(b) == 4 and (a[1], b[1]) == channels and a[0] == b[0] and a[2:] == b[2:]


def _is_buffer(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))
