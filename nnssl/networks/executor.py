"""The interface between what a sparse encoder computes (sparse.py) and how (dense_masked.py, tile_sparse.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

Features: TypeAlias = Any
"""What an executor hands from one operation to the next: a dense tensor, packed tiles, anything."""


class Executor(ABC):
    """The operations of a sparse network for one batch of masks. Made for one forward pass, holds no parameters.

    Whatever `Features` are, they stand for a dense tensor (B, C, *spatial) whose hidden positions do not exist. An
    operation must not change its argument in place, except that `pointwise` may, as the plans' own modules do.

    Args:
        visible: (B, 1, *grid) bool, True = visible, the same number in every sample.
        size: spatial size of the crops; a multiple of the grid on every axis.
    """

    def __init__(self, visible: torch.Tensor, size: Sequence[int]) -> None:
        self.visible = visible
        self.size = tuple(size)

    @abstractmethod
    def apart(self) -> Executor:
        """The same for a part of the pass, with nothing kept from or for the others: the part may be computed twice."""

    @abstractmethod
    def enter(self, x: torch.Tensor) -> Features:
        """Take a dense (B, C, *size) in. Nothing at a hidden position, not even NaN, may have any effect later."""

    @abstractmethod
    def leave(self, x: Features, filler: torch.Tensor | None = None) -> torch.Tensor:
        """Give out a dense (B, C, *spatial), with `filler` (C,) at hidden positions, or zero."""

    @abstractmethod
    def conv(self, x: Features, module: nn.Module) -> Features:
        """A `nn.ConvNd` that reads zeros at hidden positions, at visible positions of its output's resolution."""

    @abstractmethod
    def norm(self, x: Features, module: nn.Module) -> Features:
        """Instance norm (per sample and channel) or batch norm (per channel) over visible positions, then affine.

        Statistics in float32 at least. Batch norm keeps its running statistics up to date in training mode and uses them
        in eval mode, as the module would.
        """

    @abstractmethod
    def pool(self, x: Features, module: nn.Module) -> Features:
        """A `nn.AvgPoolNd` or `nn.MaxPoolNd` whose windows do not overlap, each all visible or all hidden.

        Or a `nn.MaxPoolNd` with overlapping windows around visible positions: hidden ones are not looked at.
        """

    @abstractmethod
    def pointwise(self, x: Features, module: nn.Module) -> Features:
        """A module that looks at every number alone (PReLU also at its channel)."""

    @abstractmethod
    def add(self, x: Features, y: Features) -> Features:
        """Sum of two of equal shape."""

    @abstractmethod
    def mean(self, x: Features, axes: tuple[int, ...]) -> torch.Tensor:
        """Mean over the visible positions along `axes` of the dense tensor, kept as length 1; 0 where there are none."""

    @abstractmethod
    def scale(self, x: Features, factor: torch.Tensor) -> Features:
        """Product with a factor (B, 1 or C, ...) that broadcasts against the dense tensor.

        Its spatial axes have length 1, except those that `mean` was not taken over (squeeze-excitation in 3D).
        """


ExecutorMaker: TypeAlias = Callable[[torch.Tensor, Sequence[int]], Executor]
"""An executor's class, or what makes one with further arguments: (visible, size) to the executor of one forward pass."""
