"""From sparse features to dense ones: what stands at hidden positions before a decoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from nnssl.networks.dense_masked import DenseMasked
from nnssl.networks.executor import Executor, Features


class Densify(nn.Module):
    """Per scale: norm over visible positions, a learned token at hidden ones, a projection (Tian et al. 2023, section 3.2).

    The projection is 1x1 at the deepest scale and has the plans' kernel (3x3, or 1x3x3 across thick slices) elsewhere.

    Args:
        encoder: the plans' encoder, for its widths, kernels and kind of norm; it is not kept.
        widths: channels that the decoder wants per scale, highest resolution first. Fewer than the encoder has scales:
            those of highest resolution are left out.
    """

    def __init__(self, encoder: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        plan: Any = encoder
        self.scales = len(widths)
        channels = plan.output_channels[-self.scales :]
        kernels = _kernels(plan)[-self.scales :]
        kernels[-1] = [1] * len(kernels[-1])
        norm_kwargs = plan.norm_op_kwargs or {}
        self.norms = nn.ModuleList(
            nn.Identity() if plan.norm_op is None else plan.norm_op(c, **norm_kwargs) for c in channels
        )
        # One number per channel, hence one dimension: no weight decay.
        self.tokens = nn.ParameterList(nn.Parameter(torch.empty(c)) for c in channels)
        self.projections = nn.ModuleList(
            plan.conv_op(c, width, kernel, padding=[(k - 1) // 2 for k in kernel])
            for c, width, kernel in zip(channels, widths, kernels)
        )
        self.apply(InitWeights_He(1e-2))
        for token in self.tokens:
            nn.init.normal_(token, std=0.02)

    def forward(self, features: Sequence[torch.Tensor], visible: torch.Tensor) -> list[torch.Tensor]:
        """Fill and project every scale.

        Args:
            features: (B, C_s, *spatial_s) per scale, highest resolution first, zero at hidden positions.
            visible: (B, 1, *grid) bool, True = visible.

        Returns:
            (B, widths[s], *spatial_s) per scale that the decoder wants.
        """
        return self.project(DenseMasked(visible, features[0].shape[2:]), features)

    def project(self, ops: Executor, features: Sequence[Features]) -> list[torch.Tensor]:
        """The same for features that are still an executor's own: the norm, too, is computed at visible positions only."""
        dense = []
        for x, norm, token, project in zip(features[-self.scales :], self.norms, self.tokens, self.projections):
            if not isinstance(norm, nn.Identity):
                x = ops.norm(x, norm)
            dense.append(project(ops.leave(x, token)))
        return dense


def _kernels(encoder: Any) -> list[list[int]]:
    """Kernel of each stage, one number per axis; plans may give one number for all."""
    dim = len(encoder.strides[0])
    return [[k] * dim if isinstance(k, int) else [int(n) for n in k] for k in encoder.kernel_sizes]
