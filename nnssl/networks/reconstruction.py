"""A U-Net that returns an image: nnU-Net's encoder and decoder, a 1x1 convolution in place of the segmentation layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nnssl.networks.unet import decoder_features, decoder_width, drop_segmentation_layers


class ReconstructionUNet(nn.Module):
    """Image in, image of the same size and channels out. Encoder and decoder keep the plans' key names.

    Args:
        unet: the plans' network; its segmentation layers are removed.
        out_channels: channels of the reconstruction.
    """

    def __init__(self, unet: nn.Module, out_channels: int) -> None:
        super().__init__()
        drop_segmentation_layers(unet)
        self.unet = unet
        encoder: Any = unet.encoder
        self.head = encoder.conv_op(decoder_width(unet.decoder), out_channels, kernel_size=1)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) -> (B, out_channels, *spatial)."""
        skips = self.unet.encoder(x)  # type: ignore[operator]
        return self.head(decoder_features(self.unet.decoder, skips))  # type: ignore[arg-type]
