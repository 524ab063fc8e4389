"""Quarter turns and mirrorings that move voxels without interpolation, and the part of a crop that hides nothing of them.

A crop that reaches beyond its image has bands of zeros, and their place would give a turn or a mirroring away. What lies
inside the image after *every* change that may be asked for looks the same whichever was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Plane = tuple[int, int]
Turn = tuple[Plane, int]
"""Two spatial axes and the number of quarter turns in their plane."""


def turns_in(planes: Sequence[Plane]) -> list[Turn]:
    """No turn at all, then one, two and three quarter turns in each plane: 1 + 3 len(planes) entries."""
    return [(planes[0], 0), *((plane, quarters) for plane in planes for quarters in (1, 2, 3))]


def quarter_turns(x: torch.Tensor, turns: Sequence[Turn]) -> torch.Tensor:
    """Turn sample b of x (B, C, *spatial) by turns[b], as `torch.rot90` does; exact.

    The planes' axes must be of equal length.
    """
    return torch.stack([torch.rot90(row, quarters, (a + 1, b + 1)) for row, ((a, b), quarters) in zip(x, turns)])


def opposite_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turns that undo `turns`."""
    return [(plane, -quarters % 4) for plane, quarters in turns]


def inside_every_turn(inside: torch.Tensor, planes: Sequence[Plane]) -> torch.Tensor:
    """The largest part of a mask that every quarter turn in the planes leaves in place.

    Args:
        inside: (B, 1, *spatial) bool; the planes' axes are of equal length.
        planes: pairs of spatial axes.

    Returns:
        (B, 1, *spatial) bool; empty where nothing of the mask lies around the centre.
    """
    # Every rotation of the cube is a turn in one plane, then in a second, then in the first again (Euler's angles), so
    # going through the planes twice intersects all of them, whatever the mask.
    for a, b in [*planes, *planes] if len(planes) > 1 else planes:
        half = inside & torch.rot90(inside, 2, (a + 2, b + 2))
        inside = half & torch.rot90(half, 1, (a + 2, b + 2))
    return inside


def inside_every_mirroring(inside: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """As `inside_every_turn`, for mirroring along any choice of the spatial axes."""
    for axis in axes:
        inside = inside & inside.flip(axis + 2)
    return inside
