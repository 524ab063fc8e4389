"""Volume fusion (Wang et al. 2023, arXiv 2306.16925): one crop shines through boxes of another."""

from __future__ import annotations

import torch

from nnssl.views.boxes import box_masks, random_boxes
from nnssl.views.geometry import Geometry

SMALLEST, LARGEST = 1 / 8, 5 / 8
"""Edges of boxes in 3D as shares of the crop's."""


def random_coefficients(
    geometry: Geometry,
    batch: int,
    generator: torch.Generator,
    *,
    levels: int = 4,
    count: tuple[int, int] = (10, 40),
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw a map of classes: 0, and boxes of 1 to `levels` anywhere on it, later ones over earlier ones.

    Class k stands for the fusion coefficient k / levels. In 2D the edges are chosen so that a box has the same share of the
    crop's area as it has of the volume in 3D; boxes of the same edges would cover nearly everything.

    Args:
        geometry: size of the crops.
        batch: B.
        generator: CPU generator.
        levels: K, at least 1.
        count: fewest and most boxes per crop.

    Returns:
        (B, 1, *spatial) int64.
    """
    size = geometry.patch_size
    edge = (SMALLEST ** (3 / geometry.dim), LARGEST ** (3 / geometry.dim))
    boxes = random_boxes(batch, count[1], size, edge, generator)
    values = torch.randint(1, levels + 1, (batch, count[1]), generator=generator)
    used = torch.randint(count[0], count[1] + 1, (batch, 1), generator=generator) > torch.arange(count[1])
    boxes = (boxes * used[:, :, None, None]).to(device, non_blocking=True)
    values = values.to(device, torch.uint8, non_blocking=True).view(batch, count[1], *[1] * (geometry.dim + 1))
    classes = torch.zeros(batch, 1, *size, dtype=torch.uint8, device=device)
    for k, mask in enumerate(box_masks(boxes, size)):
        classes = torch.where(mask, values[:, k], classes)
    return classes.long()


def fusion_partner(x: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each crop is fused with: the crop before it in the batch, or its own mirror image if that is the same crop.

    The mirror image is turned round along every axis at once: anatomy may look the same after mirroring along one axis, but
    hardly after mirroring along all. Of a crop that is its own mirror image, such as a constant one, nothing can be learned.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image.

    Returns:
        The partner's image and mask.
    """
    other, other_inside = x.roll(1, 0), inside.roll(1, 0)
    axes = tuple(range(2, x.ndim))
    same = (x == other).flatten(1).all(dim=1).view(-1, *[1] * (x.ndim - 1))
    return torch.where(same, x.flip(axes), other), torch.where(same, inside.flip(axes), other_inside)


def fuse(foreground: torch.Tensor, background: torch.Tensor, classes: torch.Tensor, levels: int) -> torch.Tensor:
    """a foreground + (1 - a) background with a = classes / levels per voxel, the same for all channels.

    Args:
        foreground, background: (B, C, *spatial).
        classes: (B, 1, *spatial) integers in [0, levels].
        levels: K.
    """
    return torch.lerp(background, foreground, classes.to(foreground.dtype) / levels)
