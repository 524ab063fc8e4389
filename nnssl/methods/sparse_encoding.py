"""What methods have in common whose encoder computes on visible blocks only: a choice of how."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import ClassVar, Literal, get_args

from nnssl.methods.base import Method
from nnssl.networks import DenseMasked, ExecutorMaker, TileSparse

ExecutorName = Literal["dense", "tiles"]


class SparseEncoding(Method):
    """Base of such methods. They differ in nothing but rounding and speed."""

    executors: ClassVar[tuple[ExecutorName, ...]] = get_args(ExecutorName)
    executor: ExecutorMaker = DenseMasked

    @abstractmethod
    def visible_blocks(self) -> int:
        """Visible blocks of every crop."""

    def use_executor(self, name: ExecutorName) -> None:
        """Compute the encoder on whole crops that are masked after every operation, or on the visible blocks alone."""
        self.executor = DenseMasked if name == "dense" else partial(TileSparse, count=self.visible_blocks())
