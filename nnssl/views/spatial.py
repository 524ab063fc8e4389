"""Flips, rotations and scaling of whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nnssl.views.geometry import Geometry


def random_flips(batch: int, dim: int, generator: torch.Generator, p: float = 0.5) -> torch.Tensor:
    """Draw which axes of which sample are mirrored: (B, dim) bool, on the CPU."""
    return torch.rand(batch, dim, generator=generator) < p


def flip(x: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror sample b of x (B, C, *spatial) along every axis with `flips[b, axis]` (B, dim) bool on the CPU."""
    out = x.clone()
    for axis in range(flips.shape[1]):
        chosen = flips[:, axis].nonzero().flatten().to(x.device, non_blocking=True)
        out[chosen] = out[chosen].flip(axis + 2)
    return out


def random_affine(
    geometry: Geometry,
    batch: int,
    generator: torch.Generator,
    p_rotation: float,
    p_scaling: float,
    max_angle: float = math.pi / 6,
    in_plane_angle: float = math.pi,
    scaling: Sequence[float] = (0.7, 1.4),
) -> torch.Tensor:
    """Draw one linear map per sample, in millimetres: rotation in the planes of equal spacing, scaling.

    Scaling is the same on all axes but those of thick slices, which are never interpolated. Where all planes may turn,
    angles stay within `max_angle` as in nnU-Net; where slices are thick only the in-plane pair turns, by any angle. Samples
    that are not chosen get the identity.

    Returns:
        (B, dim, dim) float32 on the CPU; maps output position to input position.
    """
    dim = geometry.dim
    matrices = torch.eye(dim).repeat(batch, 1, 1)
    planes, thick = geometry.planes(), geometry.thick_axes()
    limit = in_plane_angle if len(planes) == 1 else max_angle
    draws = torch.rand(
        batch, 3 + len(planes), generator=generator
    )  # always the same count: sample b is independent of p
    for b in range(batch):
        turn, zoom, size = draws[b, :3].tolist()
        if turn < p_rotation:
            for k, plane in enumerate(planes):
                matrices[b] = matrices[b] @ _rotation(dim, plane, float(2 * draws[b, 3 + k] - 1) * limit)
        if zoom < p_scaling:
            low, high = math.log(scaling[0]), math.log(scaling[1])
            factor = math.exp(low + size * (high - low))
            matrices[b] = matrices[b] @ torch.diag(
                torch.tensor([1.0 if a in thick else 1 / factor for a in range(dim)])
            )
    return matrices


def apply_affine(
    x: torch.Tensor, inside: torch.Tensor, matrices: torch.Tensor, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Warp x (B, C, *spatial) and its image mask (B, 1, *spatial) bool; what comes from outside is zero and False.

    Only samples with a map other than the identity are resampled (linear); the others pass bit for bit.
    """
    dim = geometry.dim
    chosen = [b for b in range(x.shape[0]) if not torch.equal(matrices[b], torch.eye(dim))]
    if not chosen:
        return x, inside
    # mm -> grid_sample's [-1, 1] coordinates, whose axes come in reverse order (x first).
    half = torch.tensor([n * s / 2 for n, s in zip(geometry.patch_size, geometry.spacing)])
    normalised = (matrices[chosen] * half[None, None, :] / half[None, :, None]).flip(1, 2)
    theta = torch.cat([normalised, torch.zeros(len(chosen), dim, 1)], dim=2).to(x.device, non_blocking=True)
    index = torch.tensor(chosen).to(x.device, non_blocking=True)
    grid = F.affine_grid(theta, [len(chosen), x.shape[1], *x.shape[2:]], align_corners=False)
    stacked = torch.cat([x[index], inside[index].to(x.dtype)], dim=1)
    warped = F.grid_sample(stacked, grid.to(x.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    x, inside = x.clone(), inside.clone()
    inside_new = warped[:, -1:] > 0.999
    x[index] = warped[:, :-1] * inside_new
    inside[index] = inside_new
    return x, inside


def random_spatial(
    x: torch.Tensor,
    inside: torch.Tensor,
    geometry: Geometry,
    generator: torch.Generator,
    *,
    p_flip: float = 0.5,
    p_rotation: float = 0.2,
    p_scaling: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, rotate and scale a batch and its image mask together; see `random_flips` and `random_affine`."""
    flips = random_flips(x.shape[0], geometry.dim, generator, p_flip)
    matrices = random_affine(geometry, x.shape[0], generator, p_rotation, p_scaling)
    return apply_affine(flip(x, flips), flip(inside, flips), matrices, geometry)


def _rotation(dim: int, plane: tuple[int, int], angle: float) -> torch.Tensor:
    """(dim, dim) rotation by `angle` (radians) in the plane of two axes."""
    matrix = torch.eye(dim)
    a, b = plane
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix
