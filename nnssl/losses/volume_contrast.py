"""VoCo's two losses: say how much of each cell of a grid a crop covers, and keep the cells apart."""

from __future__ import annotations

import torch

from nnssl.losses.similarity import cosine_matrix

FLOOR = 1e-3


def overlap_loss(predicted: torch.Tensor, overlap: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean of -log(1 - |overlap - predicted|) over queries and cells (Wu et al. 2024, VoCo, eq. 3).

    The logarithm's argument ends at `FLOOR` instead of 0, so that a wholly wrong answer costs 6.9 and its gradient is at
    most 1 / FLOOR. At the start all crops look alike, every cosine is nearly 1, and the plain logarithm would explode.

    Args:
        predicted: (B, Q, N) in [0, 1].
        overlap: (B, Q, N) in [0, 1].
        counts: (B, N) bool, which cells are scored.

    Returns:
        Scalar >= 0; 0 when no cell counts.
    """
    wrong = (predicted.float() - overlap.float()).abs()
    loss = -torch.log1p((FLOOR - 1) * wrong)
    return _mean(loss, counts[:, None].expand_as(loss))


def cell_similarity(cells: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine, where positive, of the cells of one crop with each other; the network is asked to lower it.

    Args:
        cells: (B, N, D) embeddings.
        counts: (B, N) bool, which cells take part.

    Returns:
        Scalar in [0, 1]: 1 when all cells of a crop are one point, 0 when no two of them point the same way or when there
        are no pairs.
    """
    n = cells.shape[1]
    cosine = cosine_matrix(cells, cells).clamp(min=0)
    pairs = counts[:, :, None] & counts[:, None, :] & ~torch.eye(n, dtype=torch.bool, device=cells.device)
    return _mean(cosine.square(), pairs)


def _mean(x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (x * where).sum() / where.sum().clamp(min=1)
