"""Pretrained weights from any file that nnssl reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.transfer.loading import load_content, no_surprise
from nnssl.transfer.readers import backbone, hub, nnunet, openmind, ours, plain
from nnssl.transfer.source import Weights


def find_source(source: str | Path) -> Path:
    """The file that a path or the name of a Hugging Face repository means.

    Raises:
        NnsslError: there is none, or it cannot be fetched.
    """
    if Path(source).exists():
        return Path(source)
    if isinstance(source, str) and source.startswith(backbone.SCHEME):
        return hub.fetch(backbone.hub_name(source))
    # what begins with a folder that is here is a mistyped path: it must not be sent to the hub
    if isinstance(source, str) and hub.is_hub_name(source) and not Path(source.split("/")[0]).exists():
        return hub.fetch(source)
    raise MissingError(f"{source} does not exist")


def read_weights(source: str | Path, key_prefix: str | None = None) -> Weights:
    """Pretrained weights from a file or a Hugging Face repository, whatever wrote them.

    Reads files of nnssl, of MIC-DKFZ/nnssl (OpenMind), checkpoints of nnU-Net, plain state dicts, and those of 2D image
    backbones; torch and safetensors files.

    Args:
        source: a path, `owner/repository`, `owner/repository:file`, or `timm:NAME`.
        key_prefix: `OLD[=NEW][,OLD=NEW...]` for names of foreign state dicts, for example `backbone.=encoder.`.

    Raises:
        NnsslError: missing, damaged, unsafe, or of no known format; the text says what was found and what to do.
    """
    return interpret(load_content(find_source(source)), str(source), key_prefix)


def interpret(content: Mapping[str, Any], where: str, key_prefix: str | None = None) -> Weights:
    """The weights in a file's content, as `read_weights`.

    Args:
        content: what `load_content` returned.
        where: the file, for errors.
        key_prefix: see `read_weights`.
    """
    with no_surprise(where):
        return _interpret(content, where, key_prefix)


def _interpret(content: Mapping[str, Any], where: str, key_prefix: str | None) -> Weights:
    for reader in (ours, openmind):
        if reader.recognises(content):
            if key_prefix:
                raise NnsslError(f"--key-prefix is for plain state dicts: {where} says itself what its names mean")
            return _finite(reader.read(content, where), where)
    if nnunet.recognises(content):
        return _finite(nnunet.read(content, where, key_prefix), where)
    tensors = plain.state_dict(content, where)
    if backbone.recognises(tensors):
        return _finite(backbone.read(tensors, where, key_prefix), where)
    return _finite(plain.read(content, where, key_prefix), where)


def _finite(weights: Weights, where: str) -> Weights:
    broken = [k for k, v in weights.tensors.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise NnsslError(
            f"{where}: {len(broken)} tensors hold NaN or infinity, first {broken[0]}: that training diverged"
        )
    return weights
