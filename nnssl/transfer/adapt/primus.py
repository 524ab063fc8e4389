"""Pretrained weights of a Primus for a Primus of another patch size or other input channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.channels import ChannelMap, fit_input_channels
from nnssl.transfer.adapt.keys import first_name, is_second_name
from nnssl.transfer.adapt.positions import fit_position_embedding
from nnssl.transfer.report import LoadReport

POSITIONS = "eva.pos_embed"
INPUTS = ("down_projection.proj.weight", "down_projection.stem.blocks.0.conv1.conv.weight")


def primus_part(key: str) -> str:
    """Part of a Primus that a key belongs to, in the words of the load report."""
    words = key.split(".")
    if words[0] == "down_projection":
        return "stem"
    if words[:2] == ["eva", "blocks"]:
        return f"encoder block {words[2]}"
    return "encoder" if words[0] in ("eva", "register_tokens") else "head"


def adapt_primus(
    source: Mapping[str, torch.Tensor],
    fresh: Mapping[str, torch.Tensor],
    *,
    source_grid: Sequence[int],
    target_grid: Sequence[int],
    channel_map: ChannelMap | None = None,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """All weights of a target Primus.

    Position embeddings are interpolated from grid to grid; rotary embeddings have no weights and follow the target's grid.
    The decoder (`up_projection`) depends on the number of classes and stays as initialised.

    Args:
        source: pretrained weights, `eva.*` and `down_projection.*`, first names only.
        fresh: state of the freshly initialised target.
        source_grid, target_grid: tokens per axis, patch size / size of a token.
        channel_map: see `nnssl.transfer.adapt.channels`.

    Returns:
        The state with all of `fresh`'s keys, and the report.

    Raises:
        NnsslError: a tensor differs in width, or tokens are of another size.
    """
    report, state = LoadReport(), {}
    for key, value in fresh.items():
        if is_second_name(key):
            continue
        part, found, how = primus_part(key), source.get(key), ""
        if part == "head" or found is None:
            state[key] = value
            report.new[part] += value.numel() if key != "mask_token" else 0
            continue
        if key == POSITIONS:
            how, found = _positions(found, value, source_grid, target_grid)
        elif key in INPUTS and (found.shape[1] != value.shape[1] or channel_map is not None):
            how = f"{found.shape[1]} -> {value.shape[1]} input channels" + (" by map" if channel_map else "")
            found = fit_input_channels(found, value.shape[1], channel_map)
        if found.shape != value.shape:
            raise NnsslError(
                f"{key}: the file's tensor has {_times(found)} values, the target's {_times(value)}. Width and size of a "
                "token must be those of the file; the patch size may differ"
            )
        state[key] = found.to(value.dtype)
        (report.adapted if how else report.loaded)[part] += value.numel()
        if how:
            report.how[part].add(how)
    for key, value in source.items():
        if key not in fresh or primus_part(key) == "head":
            report.unused[primus_part(key)] += value.numel()
    for key in fresh:
        if is_second_name(key):
            state[key] = state[first_name(key)]
    return {key: state[key] for key in fresh}, report


def _positions(
    found: torch.Tensor, value: torch.Tensor, old: Sequence[int], new: Sequence[int]
) -> tuple[str, torch.Tensor]:
    """Interpolate the tokens of the grid; register tokens, which stand in front, have no place and stay."""
    before, wanted = found.shape[1] - prod(old), value.shape[1] - prod(new)
    if before < 0:
        raise NnsslError(f"{POSITIONS} has {found.shape[1]} positions, fewer than the file's grid {tuple(old)}")
    fitted = fit_position_embedding(found[:, before:], old, new)
    registers = torch.cat([found[:, :before], value[:, before:wanted]], 1)[:, :wanted]
    how = "" if tuple(old) == tuple(new) else f"positions {'x'.join(map(str, old))} -> {'x'.join(map(str, new))}"
    return how, torch.cat([registers, fitted], 1)


def _times(tensor: torch.Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape)
