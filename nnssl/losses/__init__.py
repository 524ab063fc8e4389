"""Losses: plain functions and modules on tensors, no method or trainer in sight."""

from __future__ import annotations

from nnssl.losses.block_target import block_statistics, normalise_blocks, restore_blocks
from nnssl.losses.dice_ce import dice_ce
from nnssl.losses.masked_mse import masked_l1, masked_mse
from nnssl.losses.ranks import Ranks

__all__ = [
    "Ranks",
    "block_statistics",
    "dice_ce",
    "masked_l1",
    "masked_mse",
    "normalise_blocks",
    "restore_blocks",
]
