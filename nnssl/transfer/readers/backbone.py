"""State dicts of 2D image backbones: timm's and torchvision's classifiers, SparK's 2D files, MoCo's, BYOL's and the like.

Such a file does not say which network it is of. Its names stay as they are until there is a target, whose plans name the
backbone (`nnssl.transfer.adapt.backbone`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nnssl.errors import NnsslError
from nnssl.transfer.names import rename, strip_wrappers
from nnssl.transfer.source import Pretraining, Weights

BACKBONE = "nnssl.networks.timm_backbone"
"""Stands for the network of such a file in `Weights.architecture`: known to be a backbone, not which."""

_OF_UNET = re.compile(r"(^|\.)stages\.\d+\.(blocks\.\d+\.conv1|\d+\.convs\.\d+)\.(norm|all_modules)\.")
SCHEME = "timm:"


def recognises(tensors: Mapping[str, Any]) -> bool:
    """Whether a state dict is of a 2D network and of none of nnU-Net's."""
    flat = any(v.ndim == 4 for v in tensors.values())
    deep = any(v.ndim > 4 for v in tensors.values())
    return flat and not deep and not any(_OF_UNET.search(key) for key in tensors)


def read(tensors: Mapping[str, Any], where: str, key_prefix: str | None = None) -> Weights:
    """Weights under the file's own names, without wrappers.

    Args:
        tensors: of the file.
        where: the file, for errors.
        key_prefix: `OLD[=NEW][,OLD=NEW...]`, see `nnssl.transfer.names.rename`.
    """
    found, notes = strip_wrappers(tensors)
    if key_prefix:
        found, said = rename(found, key_prefix, where)
        notes += said
    if any(key.startswith("decoder.") for key in found):
        found = {k: v for k, v in found.items() if not k.startswith("decoder.")}
        notes.append("left out: the file's decoder, which is none of nnU-Net's")
    first = next((v for v in found.values() if v.ndim == 4), None)
    if first is None:
        raise NnsslError(f"{where}: no convolution of a 2D network is left among its {len(found)} tensors")
    return Weights(
        "state dict of a 2D image backbone",
        found,
        {"network_class_name": BACKBONE, "arch_kwargs": {}},
        int(first.shape[1]),
        Pretraining(),
        notes=tuple(notes),
    )


def is_backbone_file(weights: Weights) -> bool:
    """Whether the names are still those of a backbone's file."""
    return weights.architecture is not None and weights.architecture["network_class_name"] == BACKBONE


def hub_name(source: str) -> str:
    """`timm:resnet50.a1_in1k` -> the repository with timm's weights of that name.

    Raises:
        NnsslError: timm knows no such weights, or they are in no repository.
    """
    import timm

    from nnssl.networks.timm_backbone import check_name

    name = source.removeprefix(SCHEME)
    check_name(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that timm does not know
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")) or "none"
        raise NnsslError(f"timm has no weights '{name}'; there are: {tags}") from error
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        address = getattr(config, "url", None)
        raise NnsslError(
            f"timm keeps no weights '{name}' on the Hugging Face hub"
            + (f": fetch {address} and give the file" if address else "")
        )
    return str(repository)
