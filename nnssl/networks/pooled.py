"""An encoder as a feature extractor: one vector per crop."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Pooling = Literal["avg", "max", "avgmax"]


class PooledEncoder(nn.Module):
    """The deepest stage of the plans' encoder, pooled over space.

    nnU-Net's encoders end in an instance norm, which sets the spatial mean of every channel before the last
    non-linearity to a constant; the mean after it then says little more than how skewed the channel is. The largest value
    keeps what the norm takes away, so both are used unless one is asked for.

    Args:
        encoder: the plans' encoder; it returns its skips, highest resolution first.
        pooling: mean, maximum, or both side by side.

    Attributes:
        width: length of the vector.
    """

    def __init__(self, encoder: nn.Module, pooling: Pooling = "avgmax") -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.channels = int(encoder.output_channels[-1])  # type: ignore[index]
        self.width = self.channels * (2 if pooling == "avgmax" else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) -> (B, width)."""
        return pool(self.feature_map(x), self.pooling)

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *spatial) -> (B, channels, *spatial / total stride)."""
        encoder: Any = self.encoder
        return encoder(x)[-1]


def pool(features: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(B, F, *spatial) -> (B, F) or, for `avgmax`, (B, 2F)."""
    flat = features.flatten(2)
    if pooling == "avg":
        return flat.mean(2)
    if pooling == "max":
        return flat.amax(2)
    return torch.cat([flat.mean(2), flat.amax(2)], dim=1)
