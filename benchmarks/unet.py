"""The network that benchmarks share: a residual U-Net like nnU-Net's, stride 2 per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nnssl.methods import get_method
from nnssl.networks import build_unet
from nnssl.views import Geometry


def residual_unet(dim: int, features: Sequence[int], blocks: Sequence[int] | None = None) -> Any:
    """One channel in and out, kernels of three voxels, instance norm, leaky ReLU.

    Args:
        dim: 2 or 3 axes.
        features: channels of each stage.
        blocks: residual blocks of each stage; None = 1, 2, 2 ...
    """
    stages = len(features)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim] * stages,
        "strides": [[1] * dim] + [[2] * dim] * (stages - 1),
        "n_blocks_per_stage": blocks or [1] + [2] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    return build_unet(architecture, 1, 1)


def build_method(
    name: str,
    patch: Sequence[int],
    features: Sequence[int],
    options: Mapping[str, Any] | None = None,
    blocks: Sequence[int] | None = None,
) -> Any:
    """A method on that network, with the same first weights every time.

    Args:
        name: of the method.
        patch: voxels per axis; their spacing is 1 mm.
        features: channels of each stage.
        options: of the method; the others at their defaults.
        blocks: see `residual_unet`.
    """
    cls = get_method(name)
    torch.manual_seed(0)
    config = cls.Config.model_validate(dict(options or {}))
    return cls(residual_unet(len(patch), features, blocks), Geometry(tuple(patch), (1.0,) * len(patch)), 1, config)
