"""Flip prediction: mirror a crop along some axes and let the encoder say along which.

Tariq et al. 2024 (J. Med. Imaging 11:064003): none, left-right, up-down (or both) of slices of chest CT. Here every
subset of the axes is a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods.base import MethodConfig, Optimisation
from nnssl.methods.view_classification import ViewClassification, ViewClassificationConfig
from nnssl.views import Geometry, flip
from nnssl.views.turns import inside_every_mirroring


class FlipConfig(ViewClassificationConfig):
    """Options of `-m flip`."""

    axes: int | list[int] | None = Field(
        None, description="axis or axes to mirror, 0 being the plans' first; default: the last two"
    )


class Flip(ViewClassification):
    """Mirroring; bit i of a class number says whether axis `axes[i]` is mirrored."""

    name: ClassVar[str] = "flip"
    Config: ClassVar[type[MethodConfig]] = FlipConfig
    optimisation: ClassVar[Optimisation] = Optimisation(optimizer="adamw", lr=1e-3, weight_decay=1e-4)
    citation: ClassVar[str] = (
        "Tariq et al. 2024, Self-supervised learning for chest computed tomography, J. Med. Imaging 11:064003"
    )
    config: FlipConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig) -> None:
        chosen = config.axes  # type: ignore[attr-defined]
        if chosen is None:
            chosen = [geometry.dim - 2, geometry.dim - 1]
        axes = [chosen] if isinstance(chosen, int) else list(chosen)
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(range(geometry.dim)):
            raise NnsslError(f"axes={axes}: name one or more different axes of 0 to {geometry.dim - 1}")
        super().__init__(unet, geometry, channels, config, classes=2 ** len(axes))
        self.axes = axes

    def change(self, x: torch.Tensor, labels: Sequence[int], back: bool = False) -> torch.Tensor:
        """Mirror sample b as the bits of labels[b] say; doing so twice undoes it."""
        flips = torch.zeros(len(labels), self.geometry.dim, dtype=torch.bool)
        for bit, axis in enumerate(self.axes):
            flips[:, axis] = torch.tensor([bool(label >> bit & 1) for label in labels])
        return flip(x, flips)

    def unchanged(self, inside: torch.Tensor) -> torch.Tensor:
        """What is image after every mirroring."""
        return inside_every_mirroring(inside, self.axes)
