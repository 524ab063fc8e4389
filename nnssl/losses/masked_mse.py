"""Mean squared (or absolute) error over selected voxels."""

from __future__ import annotations

import torch

from nnssl.losses.ranks import Ranks

ONE_PROCESS = Ranks()


def masked_mse(
    prediction: torch.Tensor, target: torch.Tensor, where: torch.Tensor, ranks: Ranks = ONE_PROCESS
) -> torch.Tensor:
    """L2 reconstruction error on the selected voxels only (He et al. 2022, masked autoencoders, eq. in section 3).

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        where: (B, 1, *spatial) bool (or weights >= 0); True = this voxel counts.
        ranks: over which processes the batch is spread.

    Returns:
        Scalar, the mean over all selected voxels and channels of the batch; 0 when nothing is selected. Computed in
        float32 whatever the autocast type, without a host synchronisation.
    """
    return _masked_mean((prediction.float() - target.float()).square(), where, ranks)


def masked_l1(
    prediction: torch.Tensor, target: torch.Tensor, where: torch.Tensor, ranks: Ranks = ONE_PROCESS
) -> torch.Tensor:
    """As `masked_mse`, with the absolute error (Xie et al. 2022, SimMIM)."""
    return _masked_mean((prediction.float() - target.float()).abs(), where, ranks)


def _masked_mean(error: torch.Tensor, where: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    weight = where.to(torch.float32)
    return ranks.mean((error * weight).sum(), weight.sum() * error.shape[1])
