"""Heads of joint-embedding methods: small networks on pooled features, thrown away after pretraining."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

HeadNorm = Literal["layer", "batch", "none"]


class MLPHead(nn.Sequential):
    """Projector or predictor: linear layers with a norm and ReLU between them.

    A batch norm needs a batch: over two or four crops, which is what 3D patches leave room for, its statistics say more
    about the partners in the batch than about the crop. A layer norm does not depend on them. But where nothing in the
    loss keeps crops apart (byol, simsiam), it is the batch norm that does; give it the rows of all views at once.

    Args:
        width: of the input.
        hidden: of the layers between.
        out: of the result.
        layers: linear layers, at least one.
        norm: between the layers.
        last_norm: one more norm, without scale and shift, at the end.
        last_bias: whether the last layer has a bias; False where the loss takes away the mean over the batch.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        layers: int = 2,
        norm: HeadNorm = "layer",
        last_norm: bool = False,
        last_bias: bool = True,
    ) -> None:
        modules: list[nn.Module] = []
        for i in range(layers - 1):
            modules += [nn.Linear(width if i == 0 else hidden, hidden, bias=norm == "none")]
            modules += [] if norm == "none" else [head_norm(norm, hidden)]
            modules += [nn.ReLU(inplace=True)]
        last_norm = last_norm and norm != "none"
        modules.append(nn.Linear(width if layers == 1 else hidden, out, bias=last_bias and not last_norm))
        if last_norm:
            modules.append(head_norm(norm, out, affine=False))
        super().__init__(*modules)


def head_norm(norm: HeadNorm, width: int, affine: bool = True) -> nn.Module:
    """A norm over (B, width)."""
    if norm == "layer":
        return nn.LayerNorm(width, elementwise_affine=affine)
    return nn.BatchNorm1d(width, affine=affine)


class Prototypes(nn.Module):
    """Scores of unit vectors against unit prototypes, (B, width) -> (B, count) in [-1, 1].

    Args:
        width: of the embeddings.
        count: number of prototypes.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width), dim=1))

    def forward(self, z: torch.Tensor, frozen: torch.Tensor | None = None) -> torch.Tensor:
        """Cosine of every row with every prototype, in float32 also within autocast.

        Args:
            z: (..., width).
            frozen: scalar tensor, 1 to make the prototypes' gradient zero (not None, which distributed training would
                take for an unused parameter), 0 to let it pass; a tensor, so that the step need not wait for its value.

        Returns:
            (..., count).
        """
        weight = self.weight if frozen is None else self.weight.detach() * frozen + self.weight * (1 - frozen)
        kind = z.device.type if z.device.type in ("cuda", "cpu") else "cpu"
        with torch.autocast(kind, enabled=False):
            return F.normalize(z.float(), dim=-1) @ F.normalize(weight.float(), dim=1).T
