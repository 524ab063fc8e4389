"""The plans' own U-Net, built exactly as nnU-Net builds it.

dynamic_network_architectures registers every convolution twice (`.conv` and `.all_modules.0`) and its decoder owns the
encoder (`decoder.encoder.*`). These are one object under several names and must stay so: surgery on one name alone
would leave the others with untrained copies that nnU-Net then loads.
"""

from __future__ import annotations

import pydoc
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from nnssl.errors import NnsslError


def build_unet(
    architecture: Mapping[str, Any], in_channels: int, out_channels: int, deep_supervision: bool = False
) -> nn.Module:
    """Build the network that a plans configuration describes, with nnU-Net's own initialisation.

    Args:
        architecture: the plans' `architecture` block (`network_class_name`, `arch_kwargs`, `_kw_requires_import`).
        in_channels: image channels.
        out_channels: channels of the segmentation layers.
        deep_supervision: whether the decoder returns an output per scale.

    Returns:
        A network with `.encoder` and `.decoder`.

    Raises:
        NnsslError: the class cannot be imported or has no encoder and decoder.
    """
    kwargs = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if kwargs.get(key) is not None:
            kwargs[key] = pydoc.locate(kwargs[key])
    name = architecture["network_class_name"]
    network_class: Any = pydoc.locate(name)
    if network_class is None:
        raise NnsslError(f"network class '{name}' of the plans cannot be imported: install the package that holds it")
    network = network_class(
        input_channels=in_channels, num_classes=out_channels, deep_supervision=deep_supervision, **kwargs
    )
    if hasattr(network, "initialize"):
        network.apply(network.initialize)
    if not (hasattr(network, "encoder") and hasattr(network, "decoder")):
        raise NnsslError(
            f"network class '{name}' has no encoder and decoder, which pretraining needs: "
            "plan with a U-Net (PlainConvUNet, ResidualEncoderUNet or nnssl.networks.TimmUNet)"
        )
    return network


def total_stride(encoder: nn.Module, scale: int = -1) -> tuple[int, ...]:
    """Product of an encoder's strides per axis: the voxels of input behind one position of a scale, or of the deepest."""
    strides = [list(s) for s in encoder.strides]  # type: ignore[union-attr]
    strides = strides[: scale % len(strides) + 1]
    return tuple(prod(axis) for axis in zip(*strides))


def decoder_features(decoder: nn.Module, skips: list[torch.Tensor]) -> torch.Tensor:
    """Run a UNetDecoder without its segmentation layers.

    Args:
        skips: encoder outputs, highest resolution first, each (B, C_s, *spatial_s).

    Returns:
        Features at full resolution, (B, `decoder_width`, *spatial).
    """
    x = skips[-1]
    for s, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages)):  # type: ignore[arg-type]
        x = stage(torch.cat((upsample(x), skips[-(s + 2)]), dim=1))
    return x


def decoder_width(decoder: nn.Module) -> int:
    """Channels of `decoder_features`' result."""
    return int(decoder.stages[-1].output_channels)  # type: ignore[union-attr, index]


def drop_segmentation_layers(unet: nn.Module) -> None:
    """Remove the segmentation layers: pretraining never uses them, and unused parameters stall distributed training."""
    unet.decoder.seg_layers = nn.ModuleList()  # type: ignore[union-attr]
