"""Random resized crops: several views of one crop that was read, each with its own place, zoom, turn and mirroring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nnssl.views.geometry import Geometry
from nnssl.views.masks import inside_box
from nnssl.views.spatial import random_affine, random_flips


def random_resized_crop(
    x: torch.Tensor,
    box: torch.Tensor,
    geometry: Geometry,
    generator: torch.Generator,
    *,
    size: Sequence[int] | None = None,
    share: tuple[float, float] = (0.3, 1.0),
    p_flip: float = 0.5,
    p_rotation: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a box out of every crop and resample it (linear), in one pass with mirroring and rotation.

    The box keeps the crop's proportions. Axes of thick slices keep their full extent and are never interpolated: a zoom
    would blur across slices. Boxes lie inside the image's part of the crop as far as they fit.

    Args:
        x: (B, C, *spatial).
        box: (B, dim, 2) image part of each crop, as `CropBatch.inside`.
        geometry: of the crops; rotation stays in its planes.
        generator: CPU generator.
        size: voxels of the view; default: that of x.
        share: range of the box' volume (area in 2D; of the axes that are zoomed) relative to the crop's.
        p_flip, p_rotation: probabilities, per axis and per crop.

    Returns:
        View (B, C, *size), zero outside the image, and its image mask (B, 1, *size) bool.
    """
    batch, spatial = x.shape[0], x.shape[2:]
    size = tuple(size or spatial)
    dim, device = len(spatial), x.device
    zoomed = torch.tensor([axis not in geometry.thick_axes() for axis in range(dim)])
    draws = torch.rand(batch, 1 + dim, generator=generator)
    volume = share[0] + draws[:, :1] * (share[1] - share[0])
    edge = torch.where(zoomed, volume ** (1.0 / int(zoomed.sum())), 1.0) * torch.tensor(spatial)  # (B, dim) voxels
    signs = 1.0 - 2.0 * random_flips(batch, dim, generator, p_flip).float()
    turns = random_affine(geometry, batch, generator, p_rotation, p_scaling=0.0)
    spacing, n = torch.tensor(geometry.spacing), torch.tensor(spatial, dtype=torch.float32)
    # [-1, 1] of the view -> mm from the box' centre -> turned -> [-1, 1] of the crop
    linear = turns * (edge * signs / 2 * spacing)[:, None, :] / (n / 2 * spacing)[None, :, None]
    linear, edge, n, place = (t.to(device, non_blocking=True) for t in (linear, edge, n, draws[:, 1:]))
    low, high = box[..., 0].float(), box[..., 1].float()
    free = (high - low - edge).clamp(min=0)
    centre = torch.where(high - low > edge, low + edge / 2 + place * free, (low + high) / 2)
    theta = torch.cat([linear.flip(1, 2), (2 * centre / n - 1).flip(1)[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [batch, x.shape[1], *size], align_corners=False)
    image = inside_box(box, spatial).to(x.dtype)
    warped = F.grid_sample(
        torch.cat([x, image], dim=1), grid.to(x.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    inside = warped[:, -1:] > 0.999
    return warped[:, :-1] * inside, inside


def small_size(geometry: Geometry, stride: Sequence[int], edge: float) -> tuple[int, ...]:
    """Size of local views: about `edge` of the patch on every axis but those of thick slices.

    A multiple of the encoder's total stride, and never so small that one voxel would be left of the deepest stage.
    """
    size = []
    for axis, (n, s) in enumerate(zip(geometry.patch_size, stride)):
        wanted = max(2, round(edge * n / s)) * s
        size.append(n if axis in geometry.thick_axes() else min(wanted, n))
    return tuple(size)
