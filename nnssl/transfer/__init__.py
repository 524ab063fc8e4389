"""Weights in and out: the encoder file, nnU-Net's pretrained-weights file, and the report of every load."""

from __future__ import annotations

from nnssl.transfer.encoder_file import EncoderFile, pack_encoder, read_encoder, weights_of, write_encoder
from nnssl.transfer.nnunet_init import complete_network, verify_nnunet_init, write_nnunet_init
from nnssl.transfer.report import LoadReport
from nnssl.transfer.source import Pretraining, Weights
from nnssl.transfer.target import Target, target_of

__all__ = [
    "EncoderFile",
    "LoadReport",
    "Pretraining",
    "Target",
    "Weights",
    "complete_network",
    "pack_encoder",
    "read_encoder",
    "target_of",
    "verify_nnunet_init",
    "weights_of",
    "write_encoder",
    "write_nnunet_init",
]
