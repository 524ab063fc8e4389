"""A decoder for pretraining alone: narrow, and thrown away afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

NARROWEST = 8
"""Channels below which the width is not halved any more."""


class LightDecoder(nn.Module):
    """Adds the scales where nnU-Net concatenates them, and halves its width at every upsampling (Tian et al. 2023).

    Each step upsamples by the plans' stride per axis (transposed convolution), adds the densified skip, and runs two
    convolutions with norm and non-linearity. SparK adds before it upsamples; here the skip of the full resolution, which
    SparK's encoder does not have, still passes through convolutions.

    Args:
        encoder: the plans' encoder, for its strides, kernels, kind of norm and non-linearity; it is not kept.
        width: channels at the deepest scale; default: half of the encoder's (SparK: 768 for a ResNet-50's 2048).
        stop: scale at which it ends, 0 = full resolution. Scales of higher resolution are left out.

    Attributes:
        widths: channels per scale from `stop` on, highest resolution first, which the skips must have too.
    """

    def __init__(self, encoder: nn.Module, width: int | None = None, stop: int = 0) -> None:
        super().__init__()
        plan: Any = encoder
        scales = len(plan.output_channels)
        deepest = int(plan.output_channels[-1]) // 2 if width is None else width
        floor = min(deepest, NARROWEST)
        widths = [max(deepest >> (scales - 1 - s), floor) for s in range(scales)]
        self.widths = widths[stop:]
        upsample = get_matching_convtransp(plan.conv_op)
        ups, stages = [], []
        for s in reversed(range(stop, scales - 1)):
            stride = list(plan.strides[s + 1])
            ups.append(upsample(widths[s + 1], widths[s], stride, stride, bias=plan.conv_bias))
            stages.append(
                StackedConvBlocks(
                    num_convs=2,
                    conv_op=plan.conv_op,
                    input_channels=widths[s],
                    output_channels=widths[s],
                    kernel_size=plan.kernel_sizes[s],
                    initial_stride=1,
                    conv_bias=plan.conv_bias,
                    norm_op=plan.norm_op,
                    norm_op_kwargs=plan.norm_op_kwargs,
                    nonlin=plan.nonlin,
                    nonlin_kwargs=plan.nonlin_kwargs,
                )
            )
        self.ups = nn.ModuleList(ups)
        self.stages = nn.ModuleList(stages)
        self.apply(InitWeights_He(1e-2))

    def forward(self, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """Densified scales from `stop` on (B, widths[s], *spatial_s), highest resolution first, to the first one's size."""
        x = skips[-1]
        for up, stage, skip in zip(self.ups, self.stages, reversed(skips[:-1])):
            x = stage(up(x) + skip)
        return x
