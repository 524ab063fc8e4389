"""Rotation prediction: turn a crop by a multiple of 90 degrees and let the encoder say by how much.

Gidaris et al. (ICLR 2018, arXiv 1803.07728): four turns of an image. Tariq et al. 2024 (J. Med. Imaging 11:064003) use
them on slices of chest CT; turns in three planes of a volume as in Taleb et al. 2020 (NeurIPS, arXiv 2006.03829), where
they are ten classes as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods.base import MethodConfig, Optimisation
from nnssl.methods.view_classification import ViewClassification, ViewClassificationConfig
from nnssl.networks import total_stride
from nnssl.views import Geometry
from nnssl.views.turns import Plane, inside_every_turn, opposite_turns, quarter_turns, turns_in

UNEQUAL = 1.05
"""Ratio of spacings from which a turn visibly stretches what is turned."""


class RotationConfig(ViewClassificationConfig):
    """Options of `-m rotation`."""

    planes: Literal["in_plane", "all"] = Field(
        "in_plane", description="turn in the plane of the last two axes, or (3D) in every plane of equal spacing"
    )


class Rotation(ViewClassification):
    """Quarter turns in planes of equal spacing."""

    name: ClassVar[str] = "rotation"
    Config: ClassVar[type[MethodConfig]] = RotationConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = (
        "Gidaris et al. 2018, Unsupervised representation learning by predicting image rotations, ICLR"
    )
    config: RotationConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        planes = _planes(geometry, config.planes)  # type: ignore[attr-defined]
        super().__init__(unet, geometry, channels, config, classes=len(turns_in(planes)))
        self.planes, self.turns = planes, turns_in(planes)
        self.size = self._square(total_stride(unet.encoder))  # type: ignore[arg-type]

    def read_size(self) -> tuple[int, ...]:
        """The patch with the axes that turn cut to one length: a turn must not change the size, which would tell."""
        return self.size

    def change(self, x: torch.Tensor, labels: Sequence[int], back: bool = False) -> torch.Tensor:
        """Turn sample b by `self.turns[labels[b]]`."""
        turns = [self.turns[label] for label in labels]
        return quarter_turns(x, opposite_turns(turns) if back else turns)

    def unchanged(self, inside: torch.Tensor) -> torch.Tensor:
        """What is image after every turn."""
        return inside_every_turn(inside, self.planes)

    def advice(self, cases: int, batch_size: int) -> list[str]:
        """A turned image must not be a stretched one."""
        spacing = self.geometry.spacing
        found = {(min(spacing[a], spacing[b]), max(spacing[a], spacing[b])) for a, b in self.planes}
        return [
            f"crops are turned in a plane with spacings of {low:g} and {high:g} mm: a quarter turn stretches the image, and "
            "the stretch may give it away"
            for low, high in sorted(found)
            if high / low > UNEQUAL
        ]

    def _square(self, stride: tuple[int, ...]) -> tuple[int, ...]:
        """The patch with the axes that turn cut to the shortest of them, as far as the encoder can divide it."""
        patch = self.geometry.patch_size
        turning = sorted({axis for plane in self.planes for axis in plane})
        step = lcm(*(stride[axis] for axis in turning))
        edge = min(patch[axis] for axis in turning) // step * step
        size = tuple(edge if axis in turning else n for axis, n in enumerate(patch))
        if prod(n // s for n, s in zip(size, stride)) < 2:
            raise NnsslError(
                f"rotation needs crops of equal length along axes {turning}: the patch {list(patch)} is too short for the "
                f"encoder's total stride {list(stride)}. Plan larger patches or use another method, such as flip"
            )
        return size


def _planes(geometry: Geometry, wanted: str) -> list[Plane]:
    """Planes in which to turn; `in_plane`: that of the last two axes where it may turn, else the first that may."""
    allowed = geometry.planes()
    if not allowed:
        raise NnsslError(
            f"rotation needs two axes of nearly equal spacing, the plans have {list(geometry.spacing)} mm: quarter turns "
            "would stretch the image. Plan with equal spacings or use another method, such as flip"
        )
    last_two = (geometry.dim - 2, geometry.dim - 1)
    if wanted == "all":
        return allowed
    return [last_two if last_two in allowed else allowed[0]]
