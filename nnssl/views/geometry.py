"""What a view may do to a crop: size and voxel spacing of the plans, and the planes in which it may turn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Geometry:
    """Shape of one crop.

    Attributes:
        patch_size: voxels per axis, 2 or 3 entries, in the plans' (transposed) axis order.
        spacing: mm per voxel, same order.
    """

    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.patch_size) != len(self.spacing) or len(self.patch_size) not in (2, 3):
            raise ValueError(f"patch_size {self.patch_size} and spacing {self.spacing} must both have 2 or 3 entries")

    @property
    def dim(self) -> int:
        """Number of spatial axes."""
        return len(self.patch_size)

    def planes(self, tolerance: float = 1.5) -> list[tuple[int, int]]:
        """Pairs of axes whose spacings differ by less than a factor `tolerance`: rotation mixes only these.

        With thick slices (ACDC: 10 mm slices of 1.5 mm pixels) only the in-plane pair remains.
        """
        return [
            (a, b)
            for a, b in combinations(range(self.dim), 2)
            if max(self.spacing[a], self.spacing[b]) / min(self.spacing[a], self.spacing[b]) < tolerance
        ]

    def thick_axes(self, tolerance: float = 1.5) -> tuple[int, ...]:
        """Axes that share no plane of equal spacing with another one: slices too thick to be zoomed or turned.

        Empty where no plane at all has equal spacing: there is then no in-plane to tell them from.
        """
        planes = self.planes(tolerance)
        return tuple(a for a in range(self.dim) if planes and not any(a in plane for plane in planes))
