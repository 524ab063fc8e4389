"""An encoder with a linear layer on its pooled features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nnssl.networks import pool
from nnssl.networks.pooled import Pooling


class Classifier(nn.Module):
    """Pooled encoder features of an image or of a case's slices, normalised, into a linear layer.

    Args:
        encoder: the plans' encoder.
        levels: numbers of its stages.
        pooling: over space.
        outputs: classes, or 1 for a quantity.
    """

    def __init__(self, encoder: nn.Module, levels: Sequence[int], pooling: Pooling, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = tuple(levels)
        self.pooling = pooling
        widths = [int(encoder.output_channels[n]) for n in self.levels]  # type: ignore[index]
        self.width = sum(widths) * (2 if pooling == "avgmax" else 1)
        # features of several levels and of averages and maxima have other scales
        self.norm = nn.LayerNorm(self.width)
        self.head = nn.Linear(self.width, outputs)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, S, C, *spatial) -> (B, width); the slices of a case are averaged."""
        batch, slices = x.shape[:2]
        maps = self.encoder(x.flatten(0, 1))
        rows = torch.cat([pool(maps[n], self.pooling) for n in self.levels], 1)
        return rows.unflatten(0, (batch, slices)).mean(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, S, C, *spatial) -> (B, outputs)."""
        return self.head(self.norm(self.features(x)))

    def freeze_encoder(self, frozen: bool) -> None:
        """Let the encoder learn, or not; frozen it is in evaluation mode, so that running statistics stand still."""
        self.encoder.requires_grad_(not frozen)
        self.encoder.train(not frozen and self.training)
