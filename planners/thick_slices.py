"""What a planner must know of stacks of thick slices: which axis is thick, how many slices, and where to pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props, pad_shape

from nnssl.errors import NnsslError

THICK = 2.0
"""A slice is thick from this multiple of the in-plane spacing on: nnU-Net's rule for kernels and pooling."""

MIN_EDGE = 4
"""Voxels: nnU-Net's smallest edge of the deepest feature map."""

LONGEST = 3.0
"""Stacks of more slices than this multiple of the median do not lengthen the patch."""


@dataclass(frozen=True)
class Stacks:
    """The stacks of a dataset, axes in the order of the files (Z, Y, X).

    Attributes:
        axis: the thick axis.
        spacing: typical spacing in mm: the most frequent one between slices, the median in-plane.
        slices: number of slices of each case, after nnU-Net's cropping.
        odd: name -> why a case is no stack like the others.
    """

    axis: int
    spacing: tuple[float, float, float]
    slices: tuple[int, ...]
    odd: dict[str, str]

    @property
    def typical_slices(self) -> int:
        """Slices of the median stack."""
        return max(1, int(np.median(self.slices)))


def find_stacks(fingerprint: dict[str, Any]) -> Stacks:
    """Read the stacks from a dataset's fingerprint.

    Raises:
        NnsslError: most cases are not stacks of thick slices.
    """
    spacings = np.asarray(fingerprint["spacings"], dtype=float)
    shapes = np.asarray(fingerprint["shapes_after_crop"], dtype=int)
    median = np.median(spacings, axis=0)
    axis = int(np.argmax(median))
    ratios = spacings[:, axis] / np.delete(spacings, axis, axis=1).max(axis=1)
    if np.mean(ratios >= THICK) <= 0.5:
        raise NnsslError(
            f"these are no stacks of thick slices: the median spacing is {_mm(median)} (Z x Y x X), and slices would have "
            f"to be at least {THICK:g} times as thick as their pixels are wide. Use -pl nnsslPlanner"
        )
    typical = median.copy()
    typical[axis] = most_frequent(spacings[:, axis])
    names = list(fingerprint["nnssl"]["cases"])
    odd = {name: f"spacing {_mm(s)}" for name, s, ratio in zip(names, spacings, ratios) if ratio < THICK}
    z, y, x = (float(s) for s in typical)
    return Stacks(axis, (z, y, x), tuple(int(n) for n in shapes[:, axis]), odd)


def most_frequent(values: Sequence[float] | np.ndarray, digits: int = 2) -> float:
    """The value that occurs most often after rounding; of several the smallest."""
    counts = Counter(round(float(v), digits) for v in values)
    most = max(counts.values())
    return min(value for value, count in counts.items() if count == most)


def patch_slices(slices: Sequence[int]) -> int:
    """Slices that hold (nearly) every stack as a whole: the 99th percentile, at most `LONGEST` times the median."""
    wanted = float(np.percentile(slices, 99, method="higher"))
    return max(1, int(min(wanted, LONGEST * float(np.median(slices)))))


@dataclass(frozen=True)
class Topology:
    """Patch and network, thick axis first.

    Attributes:
        patch: voxels, divisible by the total stride.
        strides, kernels: per stage.
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]


def topology(spacing: Sequence[float], patch: Sequence[int], typical_slices: int) -> Topology:
    """nnU-Net's pooling and kernels for stacks: decided by the typical stack, not by the longest one.

    In-plane is pooled first, with 1x3x3 kernels, until the in-plane spacing comes within a factor of 2 of the slice
    spacing. From there on slices are pooled too, as long as the typical stack keeps `MIN_EDGE` of them. A patch that is
    long for the sake of few long stacks would otherwise pool the many short ones down to two slices.

    Args:
        spacing: mm, thick axis first.
        patch: voxels wanted, thick axis first; padded here to what the strides divide.
        typical_slices: of the median stack.
    """
    decides = (min(typical_slices, int(patch[0])), *(int(n) for n in patch[1:]))
    _, strides, kernels, _, divisor = get_pool_and_conv_props(spacing, decides, MIN_EDGE, 999)
    padded = tuple(int(n) for n in pad_shape(patch, divisor))
    return Topology(padded, strides, kernels)


def smaller(spacing: Sequence[float], current: Topology, axis: int, typical_slices: int) -> Topology | None:
    """The next smaller patch along one axis that its own strides divide; None where there is none.

    The strides may change with the patch, and with them what must divide it: 256 (stride 64) is followed by 224
    (stride 32), not by 192.
    """
    for edge in range(current.patch[axis] - 1, MIN_EDGE - 1, -1):
        wanted = [*current.patch]
        wanted[axis] = edge
        found = topology(spacing, wanted, typical_slices)
        if found.patch[axis] == edge:
            return found
    return None


def _mm(spacing: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{s:.3g}" for s in spacing) + " mm"
