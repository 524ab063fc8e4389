"""From pretrained weights to all weights of a target network, tensor by tensor, with a report of what became of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.channels import ChannelMap, fit_input_channels
from nnssl.transfer.adapt.kernels import fit_kernel
from nnssl.transfer.adapt.keys import by_role, canonical, first_name, is_second_name
from nnssl.transfer.report import LoadReport, part_of

_LAST_NORM = re.compile(r"^encoder\.stages\.\d+\.blocks\.\d+\.conv2\.norm\.(weight|bias)$")


@dataclass(frozen=True)
class _Fit:
    """A tensor for the target, and how it came about (empty: as it was)."""

    value: torch.Tensor
    how: str = ""


def adapt_network(
    source: Mapping[str, torch.Tensor],
    fresh: Mapping[str, torch.Tensor],
    *,
    source_stages: int,
    target_stages: int,
    decoder: bool,
    channel_map: ChannelMap | None = None,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Weights of a target U-Net from those of another one of the same kind and width.

    Encoder and (if wanted) decoder are matched by role. A tensor of the same shape is taken over; a convolution of
    another kernel size or dimension and a first convolution of other input channels are adapted; a bias that the file
    lacks becomes zero, which is what lacking it means. What the file has no tensor for stays as initialised, but for
    residual blocks beyond the file's: their last norm starts at zero, so that they begin as (nearly) the identity.

    Args:
        source: pretrained weights under nnU-Net's names, first names only or all.
        fresh: state of the freshly initialised target, without segmentation layers.
        source_stages, target_stages: encoder stages.
        decoder: take the decoder too.
        channel_map: see `nnssl.transfer.adapt.channels`.

    Returns:
        The state with all of `fresh`'s keys, second names holding the very tensors of the first ones; and the report.

    Raises:
        NnsslError: a tensor differs in width.
    """
    theirs = by_role(source, source_stages)
    projection = input_projection(fresh)
    report, state, used = LoadReport(), {}, set()
    beyond = _blocks_beyond(theirs, fresh)
    for key, value in fresh.items():
        if is_second_name(key):
            continue
        role, part = canonical(key, target_stages), part_of(key)
        if _is_running(role):  # statistics of batch norm: no parameters, so they count for nothing
            state[key] = theirs.get(role, value)
            continue
        wanted = decoder or not key.startswith("decoder.")
        found = theirs.get(role) if wanted else None
        fit = None if found is None else _fit(found, value, part, key == projection, channel_map)
        if wanted and found is None and key.endswith(".conv.bias") and f"{role[:-4]}weight" in theirs:
            fit = _Fit(torch.zeros_like(value), "bias set to 0: the file's convolutions have none")
        if fit is None:
            at_zero = _LAST_NORM.match(key) and key.startswith(beyond)
            state[key] = torch.zeros_like(value) if at_zero else value
            report.new[part] += value.numel()
            continue
        used.add(role)
        state[key] = fit.value.to(value.dtype)
        (report.adapted if fit.how else report.loaded)[part] += value.numel()
        if fit.how:
            report.how[part].add(fit.how)
    for key, value in source.items():
        if not is_second_name(key) and canonical(key, source_stages) not in used and not _is_running(key):
            report.unused[part_of(key)] += value.numel()
    for key in fresh:
        if is_second_name(key):
            state[key] = state[first_name(key)]
    return {key: state[key] for key in fresh}, report


def _fit(
    found: torch.Tensor, value: torch.Tensor, part: str, first: bool, channel_map: ChannelMap | None
) -> _Fit | None:
    if value.ndim < 4:  # norms and biases
        if found.shape != value.shape:
            raise _width(part, found, value)
        return _Fit(found)
    if part.startswith("decoder") and found.shape != value.shape:
        return None  # its kernels follow the strides; a decoder of other strides is another one
    how = []
    if first and (found.shape[1] != value.shape[1] or channel_map is not None):
        how.append(f"{found.shape[1]} -> {value.shape[1]} input channels" + (" by map" if channel_map else ""))
        found = fit_input_channels(found, value.shape[1], channel_map)
    if found.shape[:2] != value.shape[:2]:
        raise _width(part, found, value)
    if found.shape[2:] != value.shape[2:]:
        how.append(f"kernel {_times(found.shape[2:])} -> {_times(value.shape[2:])}")
        found = fit_kernel(found, value.shape[2:])
    return _Fit(found, ", ".join(how))


def input_projection(weights: Mapping[str, Any]) -> str:
    """Name of the first convolution's weight."""
    for key in ("encoder.stem.convs.0.conv.weight", "encoder.stages.0.0.convs.0.conv.weight"):
        if key in weights:
            return key
    raise NnsslError("no first convolution under nnU-Net's names: is this a PlainConvUNet or ResidualEncoderUNet?")


def _blocks_beyond(theirs: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Residual blocks of the target in stages that the file has, beyond its number of blocks there."""
    have = {m.group(0) for k in theirs if (m := re.match(r"encoder\.stages\.\d+\.blocks\.\d+\.", k))}
    stages = {name.split(".blocks.")[0] for name in have}
    blocks = {m.group(0) for k in fresh if (m := re.match(r"encoder\.stages\.\d+\.blocks\.\d+\.", k))}
    return tuple(b for b in blocks if b not in have and b.split(".blocks.")[0] in stages)


def _is_running(role: str) -> bool:
    return role.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _width(part: str, found: torch.Tensor, value: torch.Tensor) -> NnsslError:
    return NnsslError(
        f"{part}: the file's tensor has {_times(found.shape)} values, the target's {_times(value.shape)}. Weights of "
        "another width cannot be carried over: plan the target with nnssl_plan_and_preprocess -d TARGET --like FILE, or "
        "pretrain on plans made with --like TARGET"
    )


def _times(numbers: Sequence[int]) -> str:
    return "x".join(str(int(n)) for n in numbers)
