"""Names of tensors in foreign files: what wraps them, which stand twice, and how a user maps them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.keys import first_name, is_second_name

Tensors = dict[str, torch.Tensor]
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")
"""What DistributedDataParallel, torch.compile and FullyShardedDataParallel put into names."""


def dense_tensors(values: Mapping[Any, Any], where: str) -> Tensors:
    """The tensors among a dictionary's values.

    Raises:
        NnsslError: one of them is no ordinary dense tensor.
    """
    found = {str(k): v for k, v in values.items() if isinstance(v, torch.Tensor)}
    odd = [k for k, v in found.items() if v.layout != torch.strided or v.is_quantized or v.device.type != "cpu"]
    if odd:
        raise NnsslError(f"{where}: {odd[0]} is no ordinary dense tensor: save the weights as plain float tensors")
    return {k: v.detach() for k, v in found.items()}


def strip_wrappers(weights: Mapping[str, torch.Tensor]) -> tuple[Tensors, list[str]]:
    """Names without what wrappers put into them, and a note per kind of wrapper."""
    stripped: Tensors = {}
    met = set()
    for key, value in weights.items():
        words = key.split(".")
        wrappers = {w for i, w in enumerate(words) if w in _WRAPPERS and (w != "module" or i == 0)}
        if words[0] in _WRAPPERS:  # also module._orig_mod.module.
            while words and words[0] in _WRAPPERS:
                wrappers.add(words.pop(0))
        met |= wrappers
        stripped[".".join(w for w in words if w not in _WRAPPERS or w == "module")] = value
    if len(stripped) < len(weights):
        return dict(weights), []  # two networks, one wrapped and one not: leave it to whoever reads on
    return stripped, [f"'{name}.' was taken off the names" for name in sorted(met)]


def bare(key: str) -> str:
    """A name or prefix without wrappers."""
    return ".".join(w for w in key.split(".") if w not in _WRAPPERS)


def rename(weights: Mapping[str, torch.Tensor], mapping: str, where: str) -> tuple[Tensors, list[str]]:
    """Apply `OLD[=NEW][,OLD=NEW...]`: names that begin with OLD begin with NEW (nothing, if not given) instead.

    Raises:
        NnsslError: nothing begins with OLD, or two names become one.
    """
    pairs = []
    for part in mapping.split(","):
        old, _, new = part.strip().partition("=")
        if not old and not new:
            raise NnsslError(f"--key-prefix '{mapping}': give OLD=NEW, for example backbone.=encoder.")
        if not any(k.startswith(old) for k in weights):
            raise NnsslError(f"--key-prefix: no name in {where} begins with '{old}'; the first are {shown(weights)}")
        pairs.append((old, new))
    pairs.sort(key=lambda p: -len(p[0]))
    renamed: Tensors = {}
    others: Tensors = {}
    for key, value in weights.items():
        pair = next(((o, n) for o, n in pairs if key.startswith(o)), None)
        if pair is None:
            others[key] = value
            continue
        name = pair[1] + key[len(pair[0]) :]
        if name in renamed:
            raise NnsslError(f"--key-prefix '{mapping}': two names in {where} become {name}; name a longer prefix")
        renamed[name] = value
    notes = [f"names mapped by --key-prefix {mapping}"]
    taken = len(renamed.keys() & others.keys())
    if taken:
        notes.append(f"{taken} other tensors that had these names already are left out")
    return others | renamed, notes


def first_names(
    weights: Mapping[str, torch.Tensor], where: str, trust_second: bool = False
) -> tuple[Tensors, list[str]]:
    """Every tensor once, under its first name.

    Args:
        weights: with second names (`all_modules`, `decoder.encoder`) or without.
        where: the file, for errors.
        trust_second: where the two names of a convolution or norm differ, take the one under `all_modules`.

    Raises:
        NnsslError: the names of a tensor hold different values, and `trust_second` does not decide.
    """
    kept = {k: v for k, v in weights.items() if not is_second_name(k)}
    stale, detached = [], []
    for key, value in weights.items():
        name = first_name(key)
        if name == key:
            continue
        there = kept.get(name)
        if there is None:
            kept[name] = value
        elif _same(there, value):
            continue
        elif not trust_second:
            raise NnsslError(f"{where}: {name} and {key} are one tensor but differ; the file's writer untied them")
        elif key.startswith("decoder.encoder."):
            detached.append(name)
        else:
            stale.append(name)
            kept[name] = value
    notes = []
    if stale:
        notes.append(
            f"{len(stale)} tensors have two names that differ ({stale[0]}, ...): the copies under all_modules are taken, "
            "they are the trained ones"
        )
    if detached:
        notes.append(
            f"the decoder's copy of the encoder differs in {len(detached)} tensors: the encoder's own are taken"
        )
    return kept, notes


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same values, NaN included: those are complained about for what they are."""
    return torch.equal(a, b) or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))


def only_unet(weights: Mapping[str, torch.Tensor]) -> tuple[Tensors, list[str]]:
    """What belongs to encoder and decoder of a U-Net, without segmentation layers; and a note on the rest."""
    kept = {
        k: v
        for k, v in weights.items()
        if re.match(r"(encoder|decoder)\.", k) and not k.startswith("decoder.seg_layers.")
    }
    rest = sorted({".".join(k.split(".")[:2]) for k in weights if k not in kept and ".seg_layers." not in k})
    if not rest:
        return kept, []
    said = f"{', '.join(rest[:4])}{', ...' if len(rest) > 4 else ''}"
    return kept, [f"left out, because nnU-Net's U-Net has nothing of the kind: {said}"]


def shown(names: Mapping[str, Any]) -> str:
    """The first three names, for an error."""
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
