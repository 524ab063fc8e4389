"""Files of nnssl: encoder.pth (or .safetensors) and nnunet_init.pth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.architecture import check_names
from nnssl.transfer.encoder_file import encoder_of, weights_of
from nnssl.transfer.loading import TENSORS
from nnssl.transfer.names import dense_tensors, first_names, only_unet
from nnssl.transfer.source import Weights


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether the file was written by nnssl."""
    return any(k in content for k in ("nnssl_format", "nnssl_checkpoint", "nnssl_load_report"))


def read(content: Mapping[str, Any], where: str) -> Weights:
    """The weights; a decoder that was never trained (`nnunet_init.pth` with a fresh one) is left out."""
    if "nnssl_checkpoint" in content:
        raise NnsslError(
            f"{where} is the checkpoint of a pretraining: give the encoder.pth that the finished run wrote"
        )
    if "nnssl_format" in content:
        file = encoder_of(content, where)
        dense_tensors(file.network_weights, where)
        return _known(weights_of(file), where)
    tensors, notes = first_names(dense_tensors(content[TENSORS], where), where)
    tensors, _ = only_unet(tensors)
    if content.get("nnssl_decoder") != "pretrained":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("decoder.")}
        notes.append("the file's decoder was never trained: left out")
    channels = int(tensors[input_projection(tensors)].shape[1])
    return Weights("weights file of nnssl for nnU-Net", tensors, None, channels, notes=tuple(notes))


def _known(weights: Weights, where: str) -> Weights:
    """The weights, without a description of a network that building would have to trust the file for."""
    try:
        check_names(weights.architecture or {}, where)
    except NnsslError as error:
        return replace(weights, architecture=None, notes=(*weights.notes, str(error)))
    return weights
