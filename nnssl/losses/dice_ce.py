"""Soft Dice and cross-entropy over selected voxels, as nnU-Net trains segmentation (Isensee et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.ranks import Ranks

ONE_PROCESS = Ranks()
SMOOTH = 1e-5


def dice_ce(
    logits: torch.Tensor, classes: torch.Tensor, where: torch.Tensor, ranks: Ranks = ONE_PROCESS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch Dice loss and cross-entropy; voxels that are not selected count in neither.

    Dice of class k is 2 sum(p_k y_k) / (sum(p_k) + sum(y_k)), p the softmax and y the one-hot classes, with sums over the
    selected voxels of the whole batch (Milletari et al. 2016 with nnU-Net's linear denominator). The sums of each crop are
    gathered, so processes see one batch. Classes that do not occur in the batch are left out: their Dice is 0 whatever
    the network says.

    Args:
        logits: (B, K, *spatial).
        classes: (B, *spatial) int64 in [0, K).
        where: (B, 1, *spatial) bool, True = this voxel counts.
        ranks: over which processes the batch is spread.

    Returns:
        1 - mean Dice over the classes that occur, and mean cross-entropy per voxel; scalars in float32. Both 0 when nothing
        is selected.
    """
    weight = where.to(torch.float32)
    log_p = F.log_softmax(logits.float(), dim=1)
    p = log_p.exp()
    truth = torch.zeros_like(p).scatter_(1, classes[:, None], weight)  # one-hot, zero where nothing counts
    cross_entropy = ranks.mean(-(log_p * truth).sum(), weight.sum())

    space = tuple(range(2, p.ndim))
    sums = torch.stack([(p * truth).sum(space), (p * weight).sum(space), truth.sum(space)], dim=1)  # (b, 3, K)
    both, predicted, true = ranks.gather(sums).sum(0)
    occurs = (true > 0).float()
    dice = (2 * both + SMOOTH) / (predicted + true + SMOOTH)
    loss = ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1.0)
    return loss, cross_entropy
