"""Mean squared error over selected voxels."""

from __future__ import annotations

import torch


def masked_mse(prediction: torch.Tensor, target: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """L2 reconstruction error on the selected voxels only (He et al. 2022, masked autoencoders, eq. in section 3).

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        where: (B, 1, *spatial) bool; True = this voxel counts.

    Returns:
        Scalar, the mean over all selected voxels and channels of the batch; 0 when nothing is selected. Computed in
        float32 whatever the autocast type, without a host synchronisation.
    """
    weight = where.to(torch.float32)
    error = (prediction.float() - target.float()).square() * weight
    return error.sum() / (weight.sum() * target.shape[1]).clamp(min=1.0)
