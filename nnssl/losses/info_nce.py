"""InfoNCE: contrast with keys that come from elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.similarity import cosine_matrix


def info_nce(
    query: torch.Tensor, key: torch.Tensor, others: torch.Tensor, temperature: float, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of finding a query's key among negatives (He et al. 2020, MoCo, eq. 1). Only queries get a gradient.

    Args:
        query: (B, D).
        key: (B, D), row i the positive of query i.
        others: (K, D) candidates for negatives.
        temperature: tau > 0.
        allowed: (B, K) bool, which of them are negatives of which query. A query without any does not count.

    Returns:
        Scalar loss, the mean over queries, and the share of queries that are closer to their key than to every negative
        (detached). Both 0 when no query counts.
    """
    positive = F.cosine_similarity(query.float(), key.detach().float(), dim=1)
    negative = cosine_matrix(query, others.detach()).masked_fill(~allowed, -torch.inf)
    logits = torch.cat([positive[:, None], negative], dim=1) / temperature
    target = torch.zeros(len(query), dtype=torch.long, device=query.device)
    loss = F.cross_entropy(logits, target, reduction="none")
    right = positive.detach() > negative.detach().amax(1)
    counts = allowed.any(1)
    total = counts.sum().clamp(min=1)
    return (loss * counts).sum() / total, (right & counts).sum() / total
