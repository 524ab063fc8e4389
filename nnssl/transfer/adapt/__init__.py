"""Fitting pretrained weights to a target network: small pure functions, and the one that applies them key by key."""

from __future__ import annotations

from nnssl.transfer.adapt.channels import fit_input_channels, parse_channel_map
from nnssl.transfer.adapt.kernels import fit_kernel
from nnssl.transfer.adapt.network import adapt_network

__all__ = ["adapt_network", "fit_input_channels", "fit_kernel", "parse_channel_map"]
