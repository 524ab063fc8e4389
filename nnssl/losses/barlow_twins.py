"""Cross-correlation of two embeddings of a batch (Zbontar et al. 2021, Barlow Twins, arXiv 2103.03230)."""

from __future__ import annotations

import torch

from nnssl.losses.precision import full_precision


def barlow_twins(
    z1: torch.Tensor, z2: torch.Tensor, redundancy: float = 0.0051, joint: bool = False, eps: float = 1e-5
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sum over dimensions of (1 - C_ii)^2, plus `redundancy` times the sum of C_ij^2 over i != j (equations 1 and 2).

    C is the (D, D) cross-correlation of both views over the batch, of dimensions with mean 0 and standard deviation 1
    (denominator B).

    Args:
        z1, z2: (B, D) embeddings of the whole batch (all processes).
        redundancy: lambda.
        joint: take mean and standard deviation over the rows of both views, instead of over each view's own, as in the
            paper. Views are made in the same way, so in a large batch both are the same. With B = 2, each view's own
            would turn every value into 1 or -1, which leaves no gradient; with B = 1, into 0.
        eps: added to variances, so that a dimension which does not vary has correlation 0.

    Returns:
        Scalar loss in float32, and the detached parts `on_diagonal` and `off_diagonal`, both without a weight and divided
        by D.
    """
    n, width = z1.shape
    if joint:
        z1, z2 = standardise(torch.cat([z1, z2]).float(), eps).chunk(2)
    else:
        z1, z2 = standardise(z1.float(), eps), standardise(z2.float(), eps)
    with full_precision(z1):
        correlation = z1.T @ z2 / n
    diagonal = correlation.diagonal()
    on = (1.0 - diagonal).square().sum()
    off = correlation.square().sum() - diagonal.square().sum()
    parts = {"on_diagonal": on.detach() / width, "off_diagonal": off.detach() / width}
    return on + redundancy * off, parts


def standardise(z: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Every dimension with mean 0 and variance 1 over the rows, (B, D) -> (B, D)."""
    centred = z - z.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + eps).rsqrt()
