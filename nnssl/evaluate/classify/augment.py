"""Light augmentation of whole images, on the device: small rotations, zooms, shifts, intensities; flips if asked for.

Flips are off because left and right differ in a body, and in an image of it up and down do, too. Rotations stay small for
the same reason. What is asked of the image as a whole, such as how large a ventricle is, survives a zoom of ten per cent
only roughly: zooms stay within that.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from nnssl.views import Geometry, flip, random_affine, random_flips, random_intensity
from nnssl.views.spatial import apply_affine

ANGLE = math.pi / 12
ZOOM = (0.9, 1.1)
SHIFT_SHARE = 0.05
"""Largest random shift, as a share of the edge."""


def augment(x: torch.Tensor, geometry: Geometry, generator: torch.Generator, light: bool, flips: bool) -> torch.Tensor:
    """Change each case at random; its slices alike.

    Args:
        x: (B, S, C, *spatial), zero where there is no image; S slices for a 2D encoder, else 1.
        geometry: of (S, Y, X) or of (Z, Y, X).
        generator: CPU generator.
        light: rotate, zoom, shift, change intensities.
        flips: flip along every axis, but never the order of slices.

    Returns:
        The same shape.
    """
    stacked = x.ndim == 5
    volume = x.movedim(1, 2) if stacked else x[:, 0]  # (B, C, S, Y, X): a stack of slices is a volume
    if flips:
        chosen = random_flips(len(volume), 3, generator)
        if stacked:
            chosen[:, 0] = False
        volume = flip(volume, chosen)
    if light:
        volume = _light(volume, geometry, generator)
    return volume.movedim(2, 1) if stacked else volume[:, None]


def _light(volume: torch.Tensor, geometry: Geometry, generator: torch.Generator) -> torch.Tensor:
    """(B, C, *spatial); what comes from outside is zero."""
    inside = (volume != 0).any(1, keepdim=True)
    moves = 2 * torch.rand(len(volume), 3, generator=generator) - 1
    if geometry.planes():  # without a plane of equal spacing a rotation would shear, and a zoom would mix slices
        matrices = random_affine(geometry, len(volume), generator, 0.5, 0.5, ANGLE, ANGLE, ZOOM)
        volume, inside = apply_affine(volume, inside, matrices, geometry)
    volume = random_intensity(volume, inside, generator, p=0.3, geometry=geometry)
    return torch.stack([_shifted(case, move, geometry) for case, move in zip(volume, moves)])


def _shifted(case: torch.Tensor, move: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(C, *spatial) moved by whole voxels, zeros behind it; thick slices stay in their place."""
    amounts = [0 if a in geometry.thick_axes() else int(m * SHIFT_SHARE * n)
               for a, (m, n) in enumerate(zip(move.tolist(), case.shape[1:]))]  # fmt: skip
    return F.pad(case, [p for m in reversed(amounts) for p in (m, -m)])
