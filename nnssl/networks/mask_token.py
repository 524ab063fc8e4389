"""What stands in hidden blocks of an image before a dense network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn


class MaskToken(nn.Module):
    """A learned block of voxels, the same in every hidden block (Xie et al. 2022, SimMIM, section 3.2).

    A transformer replaces a hidden patch by a learned token; a convolutional network has no tokens, so what is learned is
    the picture that a token would be embedded from.

    Args:
        channels: of the image.
        block: voxels per axis.
    """

    def __init__(self, channels: int, block: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.block = channels, tuple(block)
        # Flat, because parameters of one dimension have no weight decay.
        self.values = nn.Parameter(torch.empty(channels * prod(self.block)))
        nn.init.normal_(self.values, std=0.02)

    def forward(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Put the token where the image is hidden.

        Args:
            image: (B, C, *spatial); what it holds in hidden blocks has no effect.
            visible: (B, 1, *grid) bool, True = visible; spatial = grid * block.

        Returns:
            (B, C, *spatial).
        """
        tokens = self.values.view(1, self.channels, *self.block).to(image.dtype).repeat(1, 1, *visible.shape[2:])
        for axis, size in enumerate(self.block, start=2):
            visible = visible.repeat_interleave(size, dim=axis)
        return torch.where(visible, image, tokens)
