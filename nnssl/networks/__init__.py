"""Networks: the plans' U-Net and what pretraining adds to it. Needs torch and dynamic_network_architectures only."""

from __future__ import annotations

from nnssl.networks.reconstruction import ReconstructionUNet
from nnssl.networks.unet import build_unet, decoder_features, total_stride

__all__ = ["ReconstructionUNet", "build_unet", "decoder_features", "total_stride"]
