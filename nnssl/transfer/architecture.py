"""The network that a foreign file describes: safe to build, and the one its tensors belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer.adapt.keys import is_second_name
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.compare import is_unet

UNETS = {
    name: f"dynamic_network_architectures.architectures.unet.{name}"
    for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
PRIMUS = "dynamic_network_architectures.architectures.primus."
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
_NETWORK = re.compile(
    r"dynamic_network_architectures\.(architectures|building_blocks)\.\w+\.[A-Z]\w*|nnssl\.networks\.(\w+\.)?[A-Z]\w*"
)
_PART = re.compile(
    r"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*|dynamic_network_architectures\.building_blocks\.\w+\.[A-Z]\w*"
)


def check_names(architecture: Mapping[str, Any], where: str) -> None:
    """Building a network imports and calls what its description names: only networks and layers may stand there.

    Args:
        architecture: `network_class_name`, `arch_kwargs`, `_kw_requires_import`.
        where: the file, for the error.

    Raises:
        NnsslError: a name of anything else.
    """
    name, kwargs = str(architecture["network_class_name"]), architecture["arch_kwargs"]
    if not _NETWORK.fullmatch(name):
        raise NnsslError(f"{where} describes a network of class '{name}', which is none that nnssl knows: refused")
    for key in architecture["_kw_requires_import"]:
        value = kwargs.get(key)
        if value is not None and not _PART.fullmatch(str(value)):
            raise NnsslError(f"{where}: the network's {key} is '{value}', which is no layer of PyTorch: refused")


def res_enc_l() -> dict[str, Any]:
    """The residual encoder U-Net that OpenMind's files call ResEncL."""
    kwargs = {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": UNETS["ResidualEncoderUNet"],
        "arch_kwargs": kwargs,
        "_kw_requires_import": list(IMPORTED),
    }


def contradiction(architecture: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """What of the encoder's tensors does not fit the described U-Net; None where all of it fits.

    The network is built without memory for its weights (on torch's meta device).
    """
    if is_unet(architecture):
        differs = _stages_differ(architecture["arch_kwargs"], tensors)
        if differs:
            return differs
        channels = tensors[input_projection(tensors)].shape[1]
    else:
        channels = next((v.shape[1] for k, v in tensors.items() if k.startswith("encoder.") and v.ndim > 3), 1)
    try:
        with torch.device("meta"):
            network = build_unet(architecture, int(channels), 2)
    except Exception as error:  # kwargs come from a file: whatever the constructor makes of them is the answer
        return f"the described network cannot be built ({' '.join(str(error).split())[:100]})"
    wanted = {f"encoder.{k}": v.shape for k, v in network.encoder.state_dict().items()}  # type: ignore[union-attr]
    wanted = {k: v for k, v in wanted.items() if not is_second_name(k)}
    there = {k: v.shape for k, v in tensors.items() if k.startswith("encoder.") and not is_second_name(k)}
    for key in sorted({*wanted, *there}):
        if wanted.get(key) != there.get(key):
            return f"{key}: {_said(wanted.get(key))} described, {_said(there.get(key))} there"
    return None


def _stages_differ(kwargs: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Before anything is built: as many stages and blocks as there are tensors for."""
    blocks = kwargs.get("n_blocks_per_stage", kwargs.get("n_conv_per_stage"))
    stages = {k.split(".")[2] for k in tensors if k.startswith("encoder.stages.")}
    if kwargs.get("n_stages") != len(stages):
        return f"{kwargs.get('n_stages')} stages are described, {len(stages)} are there"
    if blocks is None or sum(blocks if isinstance(blocks, list) else [blocks]) > len(tensors):
        return "more blocks are described than there are tensors"
    return None


def _said(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else f"{'x'.join(str(n) for n in shape)} values"
