"""Momentum teachers: a slowly moving average of a network."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class MomentumCopy(nn.Module):
    """A copy of a network whose parameters follow the original and never see a gradient.

    Convolutions that nnU-Net registers under two names stay one object in the copy too. Norms with running statistics
    keep their own.

    Args:
        online: the network to follow.
    """

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(online).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """What the copy answers."""
        return self.module(*inputs)

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * online, for all parameters at once."""
        ours, theirs = ([p.detach() for p in net.parameters()] for net in (self.module, online))
        torch._foreach_lerp_(ours, theirs, 1.0 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """Rises from `start` to 1 along half a cosine (Grill et al. 2020, BYOL, appendix).

    Args:
        start: momentum at the beginning.
        progress: share of the run that is done, in [0, 1].
    """
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0
