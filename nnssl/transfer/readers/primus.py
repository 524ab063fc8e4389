"""The part that readers share for Primus, the transformer of nnU-Net's world."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.primus import INPUTS
from nnssl.transfer.architecture import PRIMUS
from nnssl.transfer.names import Tensors, first_names
from nnssl.transfer.source import Pretraining, Weights

PARTS = {"key_to_encoder": "eva", "key_to_stem": "down_projection"}
_KEPT = re.compile(r"(eva|down_projection|up_projection)\.|mask_token$|register_tokens$")
_HEADS = {396: 6, 792: 12, 864: 12, 1056: 16}
"""Attention heads of Primus S, B, M and L by width; no tensor shows them."""


def is_primus(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are weights of a Primus."""
    return any(k.startswith("eva.blocks.0.") for k in tensors)


def weights(
    kind: str,
    tensors: Tensors,
    described: Mapping[str, Any],
    images: Pretraining,
    notes: list[str],
    citations: tuple[str, ...],
    where: str,
) -> Weights:
    """The neutral form of a Primus; `arch_kwargs` are what its tensors and its patch size show.

    Args:
        kind: what the file is.
        tensors: without wrappers, under the names of dynamic_network_architectures.
        described: the file's `architecture_plans`, if it has any.
        images: what is known of the images.
        notes, citations: so far.
        where: the file, for errors.

    Raises:
        NnsslError: parts of a Primus are missing.
    """
    kept = {k: v for k, v in tensors.items() if _KEPT.match(k)}
    kept, said = first_names(kept, where, trust_second=True)
    first = next((kept[k] for k in INPUTS if k in kept), None)
    if first is None or not is_primus(kept):
        raise NnsslError(f"{where}: a Primus without {INPUTS[0]} or without eva.blocks: its file is not complete")
    left = sorted({k.split(".")[0] for k in tensors if not _KEPT.match(k)})
    notes = [*notes, *said, *([f"left out, because Primus has nothing of the kind: {', '.join(left)}"] if left else [])]
    name = str(described.get("arch_class_name", "Primus")).rsplit(".", 1)[-1]
    given = described.get("arch_kwargs") or {}
    width = int(kept["eva.blocks.0.norm1.weight"].shape[0])
    token = tuple(int(n) for n in first.shape[2:]) if INPUTS[0] in kept else given.get("patch_embed_size")
    patch = given.get("input_shape") or images.patch_size
    kwargs = {
        "embed_dim": width,
        "eva_depth": len({k.split(".")[2] for k in kept if k.startswith("eva.blocks.")}),
        "eva_numheads": given.get("eva_numheads", _HEADS.get(width)),
        "patch_embed_size": list(token) if token else None,
        "input_shape": list(patch) if patch else None,
        "num_register_tokens": int(kept["register_tokens"].shape[1]) if "register_tokens" in kept else 0,
    }
    architecture = {"network_class_name": PRIMUS + name, "arch_kwargs": kwargs, "_kw_requires_import": []}
    found = Weights(kind, kept, architecture, int(first.shape[1]), images, citations=citations, notes=tuple(notes))
    grid_of(found)
    return found


def grid_of(source: Weights) -> tuple[int, ...]:
    """Tokens per axis of a Primus' weights, from its patch size, or a cube where the file does not say.

    Raises:
        NnsslError: the number of position embeddings fits neither.
    """
    kwargs = (source.architecture or {})["arch_kwargs"]
    positions = source.tensors.get("eva.pos_embed")
    if kwargs["input_shape"] and kwargs["patch_embed_size"]:
        grid = tuple(int(p) // int(t) for p, t in zip(kwargs["input_shape"], kwargs["patch_embed_size"]))
        if positions is None or prod(grid) + kwargs["num_register_tokens"] == positions.shape[1]:
            return grid
    elif positions is not None:
        tokens = positions.shape[1] - kwargs["num_register_tokens"]
        side = round(tokens ** (1 / 3))
        if side**3 == tokens:
            return (side,) * 3
    there = "none" if positions is None else str(positions.shape[1])
    raise NnsslError(
        f"{source.kind}: patch size {kwargs['input_shape']} in tokens of {kwargs['patch_embed_size']} does not fit its "
        f"position embeddings ({there}): the file does not say which patch size it was trained with"
    )
