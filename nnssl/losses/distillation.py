"""Self-distillation: a student's distribution over prototypes against a teacher's, for whole crops and per position."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.masked_mse import ONE_PROCESS
from nnssl.losses.ranks import Ranks


def sharpen(scores: torch.Tensor, centre: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """The teacher's distribution: centred, then sharpened (Caron et al. 2021, DINO, section 3.1).

    Taking away the mean score of each prototype keeps one of them from winning everywhere; the low temperature keeps
    them from all being as likely. Each alone collapses to what the other prevents.

    Args:
        scores: (..., K) the teacher's.
        centre: (K,) running mean of the teacher's scores.
        temperature: tau_t > 0.

    Returns:
        (..., K) float32, sums to 1 over K.
    """
    return F.softmax((scores.detach().float() - centre) / temperature, dim=-1)


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of distributions (..., K), between 0 and log K."""
    return -torch.xlogy(p, p).sum(-1)


def view_distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy between the teacher's and the student's distribution of *different* views (DINO, equation 3).

    Args:
        student: (B, V, K) scores. The first T views are those that the teacher saw, in its order.
        teacher: (B, T, K) distributions, T <= V.
        temperature: tau_s > 0, of the student.

    Returns:
        Scalar, the mean over crops and over the T (V - 1) pairs of a teacher's view and another view of the student.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    views, seen = student.shape[1], teacher.shape[1]
    cost = -(teacher.detach()[:, :, None] * log_p[:, None]).sum(-1).mean(0)  # (T, V)
    other = ~torch.eye(seen, views, dtype=torch.bool, device=cost.device)
    return (cost * other).sum() / (seen * (views - 1))


def position_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    weight: torch.Tensor,
    temperature: float,
    ranks: Ranks = ONE_PROCESS,
) -> torch.Tensor:
    """Cross-entropy at the positions of one view that the student could not see (Zhou et al. 2022, iBOT, equation 2).

    Args:
        student: (B, P, K) scores.
        teacher: (B, P, K) distributions at the same positions.
        weight: (B, P) >= 0, how much a position counts; 0 where it was visible or is padding.
        temperature: tau_s > 0, of the student.
        ranks: over which processes the batch is spread.

    Returns:
        Scalar, the weighted mean over all positions of the batch; 0 where nothing counts.
    """
    cost = -(teacher.detach() * F.log_softmax(student.float() / temperature, dim=-1)).sum(-1)
    weight = weight.float()
    return ranks.mean((cost * weight).sum(), weight.sum())
