"""Small networks and crops that every method must cope with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch

from nnssl.methods import CropBatch, Method, get_method
from nnssl.networks import build_unet
from nnssl.views import Geometry
from tests.conftest import UNET_3D


@dataclass(frozen=True)
class Shape:
    """A plan in miniature."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    plain: bool = False
    channels: int = 1


SHAPES = {
    "3d": Shape((16, 16, 16), (1.0, 1.0, 1.0), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3),
    "anisotropic": Shape(
        (6, 16, 24), (8.0, 1.5, 1.5), ((1, 1, 1), (1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 2 + ((3, 3, 3),)
    ),
    "2d": Shape((24, 16), (1.5, 1.5), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3),
    "plain_two_channels": Shape(
        (16, 16, 16), (1.0, 1.0, 1.0), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, plain=True, channels=2
    ),
}


def architecture(shape: Shape) -> dict[str, Any]:
    """The plans' architecture block for a shape."""
    arch = json.loads(json.dumps(UNET_3D))
    dim = len(shape.size)
    kwargs = arch["arch_kwargs"]
    kwargs |= {
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "strides": [list(s) for s in shape.strides],
        "kernel_sizes": [list(k) for k in shape.kernels],
    }
    if shape.plain:
        arch["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        kwargs["n_conv_per_stage"] = kwargs.pop("n_blocks_per_stage")
    return arch


def make_method(name: str, shape: Shape, seed: int = 0, **options: Any) -> Method:
    """A method on a small network."""
    torch.manual_seed(seed)
    cls = get_method(name)
    unet = build_unet(architecture(shape), shape.channels, 1)
    return cls(unet, Geometry(shape.size, shape.spacing), shape.channels, cls.Config(**options))


def make_crops(method: Method, batch: int = 4, seed: int = 0, partner: bool | None = None) -> CropBatch:
    """Smooth random crops of the size a method wants to read; the last one reaches beyond its image."""
    size = method.read_size()
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, method.channels, *size, generator=draw)
    for axis in range(2, images.ndim):  # a moving average over three voxels along every axis
        images = (images + images.roll(1, axis) + images.roll(-1, axis)) / 3
    images = images / images.std()
    inside = torch.tensor([[[0, n] for n in size]] * batch)
    inside[-1, -1, 0] = 3
    images[-1, ..., :3] = 0
    case = torch.arange(batch)
    wanted = method.wants_partner if partner is None else partner
    other = make_crops(method, batch, seed + 1, partner=False) if wanted else None
    return CropBatch(images, inside, case, other)


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def liven(method: Method, std: float = 0.1) -> None:
    """Give every trainable parameter random values: nnU-Net starts the last norm of each residual branch at zero, and
    heads may start at zero, which would hide a missing connection."""
    torch.manual_seed(1)
    for parameter in method.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
