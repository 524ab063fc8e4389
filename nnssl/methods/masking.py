"""What the methods that hide blocks of a crop have in common: their options, the block's size, pictures."""

from __future__ import annotations

from math import prod

import torch
from pydantic import Field

from nnssl.errors import NnsslError
from nnssl.methods.augmentation import AugmentationConfig


class MaskingConfig(AugmentationConfig):
    """Options of every method that hides blocks."""

    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of blocks to hide")
    block: int | list[int] | None = Field(
        None, description="block edge in voxels, one number or one per axis; default: the encoder's total stride"
    )


def block_edges(
    chosen: int | list[int] | None,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    whole_strides: bool = False,
    choice: bool = True,
) -> tuple[int, ...]:
    """The block's edge per axis.

    Args:
        chosen: the option `block`; a single number is cut to the patch on short axes, None means the total stride.
        size: the patch.
        stride: the encoder's total stride.
        whole_strides: the block must be a multiple of the stride.
        choice: there must be at least two blocks to choose from.

    Raises:
        NnsslError: it is not, there are not, or the block does not divide the patch.
    """
    if chosen is None:
        block = stride
    elif isinstance(chosen, int):
        block = tuple(min(chosen, n) for n in size)
    else:
        block = tuple(chosen)
    if len(block) != len(size) or any(b < 1 or n % b for n, b in zip(size, block)):
        raise NnsslError(
            f"block={list(block)} must divide the patch size {list(size)} on every axis "
            f"(default: the encoder's total stride, {list(stride)})"
        )
    if whole_strides and any(b % s for b, s in zip(block, stride)):
        raise NnsslError(
            f"block={list(block)} must be a multiple of the encoder's total stride {list(stride)} on every axis: "
            "the deepest stage cannot be masked in finer blocks"
        )
    if choice and prod(n // b for n, b in zip(size, block)) < 2:
        raise NnsslError(f"block={list(block)} covers the whole patch {list(size)}: use smaller blocks")
    return block


def before_and_after(image: torch.Tensor, visible: torch.Tensor, answer: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pictures for `preview`: crop, what was shown of it, the answer, and the answer put into the hidden places.

    Args:
        image: (B, C, *spatial).
        visible: (B, 1, *spatial) bool, True = visible.
        answer: (B, C, *spatial).
    """
    return {
        "crop": image,
        "shown to the network": torch.where(visible, image, torch.nan),
        "network output": answer,
        "hidden blocks filled in": torch.where(visible, image, answer),
    }
