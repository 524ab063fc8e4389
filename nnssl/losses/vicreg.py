"""Variance, invariance and covariance of two embeddings of a batch (Bardes et al. 2022, VICReg, arXiv 2105.04906)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnssl.losses.precision import full_precision


def vicreg(
    z1: torch.Tensor,
    z2: torch.Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Equation 6 of the paper: lambda s(Z, Z') + mu [v(Z) + v(Z')] + nu [c(Z) + c(Z')].

    s is the mean squared difference over rows and dimensions, as in the paper's algorithm 1 (its equation 5 does not divide
    by the width).

    Args:
        z1, z2: (B, D) embeddings of the whole batch (all processes). With B = 1 there is no variance, and only the
            invariance has a gradient.
        invariance, variance, covariance: lambda, mu, nu.
        gamma: standard deviation that every dimension should have at least.

    Returns:
        Scalar loss in float32, and the detached parts `invariance`, `variance`, `covariance` without their weights, the
        latter two summed over both views.
    """
    z1, z2 = z1.float(), z2.float()
    s = F.mse_loss(z1, z2)
    v = variance_hinge(z1, gamma) + variance_hinge(z2, gamma)
    c = off_diagonal_covariance(z1) + off_diagonal_covariance(z2)
    parts = {"invariance": s.detach(), "variance": v.detach(), "covariance": c.detach()}
    return invariance * s + variance * v + covariance * c, parts


def variance_hinge(z: torch.Tensor, gamma: float = 1.0, eps: float = 1e-4) -> torch.Tensor:
    """Mean over dimensions of max(0, gamma - sqrt(Var + eps)), the variance with B - 1 in the denominator (equation 1).

    eps keeps the gradient of the square root finite where a dimension does not vary.

    Args:
        z: (B, D).
    """
    centred = z - z.mean(dim=0)
    spread = centred.square().sum(dim=0) / max(1, len(z) - 1)
    return F.relu(gamma - (spread + eps).sqrt()).mean()


def off_diagonal_covariance(z: torch.Tensor) -> torch.Tensor:
    """Sum of the squared covariances between different dimensions, divided by D (equations 3 and 4).

    Args:
        z: (B, D).
    """
    centred = z - z.mean(dim=0)
    with full_precision(z):
        covariance = centred.T @ centred / max(1, len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
