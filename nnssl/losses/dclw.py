"""Decoupled contrastive loss, weighted: the positive is not in the denominator, and distant positives count more."""

from __future__ import annotations

import torch

from nnssl.losses.nt_xent import negative_pairs
from nnssl.losses.similarity import cosine_matrix


def dclw(
    z1: torch.Tensor, z2: torch.Tensor, temperature: float, sigma: float, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted decoupled contrastive loss (Yeh et al. 2022, ECCV, DCLW).

    Anchor i: -w_i s_i / tau + log sum_j exp(s_ij / tau), s_i the cosine with its other view, j over both views of its
    negatives; see `positive_weights` for w.

    Args:
        z1, z2: (B, D) embeddings of the whole batch (all processes).
        temperature: tau > 0.
        sigma: > 0, see `positive_weights`.
        allowed: (B, B) bool, which crops are negatives of which; default: all others. A crop without any is no anchor.

    Returns:
        Scalar loss, the mean over both views of all anchors (it may be negative), and the share of anchors that are closer
        to their positive than to every negative (detached). Both 0 when there is no anchor.
    """
    n = z1.shape[0]
    z = torch.cat([z1, z2])
    pair = negative_pairs(n, allowed, z.device)
    anchor = pair.any(1)
    similarity = cosine_matrix(z, z)
    positive = similarity.diagonal(n)  # row i, column n + i
    weight = positive_weights(positive, sigma, anchor[:n])
    # rows without negatives keep all their entries: an empty sum would give -inf, and NaN in its gradient
    others = similarity.masked_fill(~pair & anchor[:, None], -torch.inf)
    loss = torch.logsumexp(others / temperature, dim=1) - (weight * positive).repeat(2) / temperature
    right = positive.detach().repeat(2) > others.detach().amax(1)
    count = anchor.sum().clamp(min=1)
    return (loss * anchor).sum() / count, (right & anchor).sum() / count


def positive_weights(positive: torch.Tensor, sigma: float, anchor: torch.Tensor) -> torch.Tensor:
    """w = 2 - exp(s / sigma) / mean exp(s / sigma): above 1 for positives that are further apart than usual, mean 1.

    The weights are constants: no gradient flows through them. Otherwise a pair that agrees better than the others would
    be pushed apart, because its closeness raises the weights of the others' terms.

    Args:
        positive: (B,) cosine of the two views of each crop.
        sigma: width; smaller numbers make the weights differ more.
        anchor: (B,) bool, which crops count in the mean.

    Returns:
        (B,), between 2 - B and 2.
    """
    closeness = torch.exp(positive.detach() / sigma)
    mean = (closeness * anchor).sum() / anchor.sum().clamp(min=1)
    return 2 - closeness / mean.clamp(min=1e-12)
