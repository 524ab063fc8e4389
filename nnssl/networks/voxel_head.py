"""From the deepest stage straight to voxels, with one 1x1 convolution."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from nnssl.networks.unet import total_stride


class VoxelHead(nn.Module):
    """Every position of the deepest stage predicts the voxels below it (the one-layer head of SimMIM, section 3.3).

    Args:
        encoder: the plans' encoder, for its width and total stride; it is not kept.
        channels: of the image.
        std: standard deviation of the initial weights; small, so that the first answer is about zero.
    """

    def __init__(self, encoder: nn.Module, channels: int, std: float = 0.02) -> None:
        super().__init__()
        plan: Any = encoder
        self.channels = channels
        self.stride = total_stride(encoder)
        self.conv = plan.conv_op(int(plan.output_channels[-1]), channels * prod(self.stride), kernel_size=1)
        nn.init.normal_(self.conv.weight, std=std)
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, *spatial / total stride) -> (B, channels, *spatial)."""
        batch, grid, dim = features.shape[0], features.shape[2:], len(self.stride)
        values = self.conv(features).reshape(batch, self.channels, *self.stride, *grid)
        order = [axis for a in range(dim) for axis in (2 + dim + a, 2 + a)]  # grid and offset of each axis side by side
        return values.permute(0, 1, *order).reshape(batch, self.channels, *(g * s for g, s in zip(grid, self.stride)))
