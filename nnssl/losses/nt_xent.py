"""NT-Xent: contrast over the crops of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.similarity import cosine_matrix


def negatives(case: torch.Tensor, others: torch.Tensor, same_case: bool) -> torch.Tensor:
    """Which pairs may be contrasted: (N, M) bool.

    Args:
        case: (N,) case of each anchor; negative numbers never equal anything.
        others: (M,) case of each candidate.
        same_case: whether crops of one case may be negatives of each other. By default of all methods here they are not:
            two crops of one image are as likely to show the same anatomy as different ones.
    """
    if same_case:
        return torch.ones(len(case), len(others), dtype=torch.bool, device=case.device)
    return (case[:, None] != others[None, :]) | (case[:, None] < 0)


def nt_xent(
    z1: torch.Tensor, z2: torch.Tensor, temperature: float, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, SimCLR, eq. 1).

    Both views of every crop are anchors; the other view is the positive, both views of the other crops are negatives.

    Args:
        z1, z2: (B, D) embeddings of the whole batch (all processes).
        temperature: tau > 0.
        allowed: (B, B) bool, which crops are negatives of which; default: all others. A crop without any is no anchor.

    Returns:
        Scalar loss, the mean over anchors, and the share of anchors that are closest to their positive (detached). Both 0
        when there is no anchor.
    """
    n = z1.shape[0]
    z = torch.cat([z1, z2])
    pair = negative_pairs(n, allowed, z.device)
    target = (torch.arange(2 * n, device=z.device) + n) % (2 * n)
    keep = pair.scatter(1, target[:, None], True)
    logits = (cosine_matrix(z, z) / temperature).masked_fill(~keep, -torch.inf)
    loss = F.cross_entropy(logits, target, reduction="none")
    right = (logits.detach().argmax(1) == target).float()
    # an anchor without negatives has loss 0 and is always right: it must not dilute either mean
    anchor = pair.any(1).float()
    count = anchor.sum().clamp(min=1)
    return (loss * anchor).sum() / count, (right * anchor).sum() / count


def negative_pairs(n: int, allowed: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Negatives among the two views of n crops, first all first views, then all second ones: (2n, 2n) bool.

    Args:
        n: crops.
        allowed: (n, n) bool, which crops are negatives of which; default: all. No crop is its own.
    """
    other = ~torch.eye(n, dtype=torch.bool, device=device)
    return (other if allowed is None else allowed & other).repeat(2, 2)
