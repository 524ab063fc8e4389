"""Weights in and out: the encoder file, nnU-Net's pretrained-weights file, and the report of every load."""

from __future__ import annotations

from nnssl.transfer.encoder_file import EncoderFile, pack_encoder, read_encoder, write_encoder
from nnssl.transfer.nnunet_init import complete_network, verify_nnunet_init, write_nnunet_init
from nnssl.transfer.report import LoadReport

__all__ = [
    "EncoderFile",
    "LoadReport",
    "complete_network",
    "pack_encoder",
    "read_encoder",
    "verify_nnunet_init",
    "write_encoder",
    "write_nnunet_init",
]
