"""Even assignment of crops to prototypes: Sinkhorn-Knopp, as in SwAV (Caron et al. 2020, arXiv 2006.09882)."""

from __future__ import annotations

import math

import torch


@torch.no_grad()
def sinkhorn(
    scores: torch.Tensor, epsilon: float | torch.Tensor = 0.05, iterations: int = 3, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Soft codes that use all prototypes about equally (Cuturi 2013; SwAV, equations 3 to 5).

    exp(scores / epsilon) is scaled alternately until columns (prototypes) have equal sums, and rows (crops) too. Computed
    with logarithms, so that no epsilon overflows.

    Args:
        scores: (N, K) similarity of every row to every prototype, of the whole batch (all processes).
        epsilon: > 0; small values make hard codes.
        iterations: of scaling columns, then rows; the last scaling is of rows, so these are exact.
        weight: (N,) >= 0, how much each row counts towards the columns' sums; zero for empty slots of a queue.
            Default: all the same.

    Returns:
        (N, K) float32, every row sums to 1.
    """
    log_q = scores.float() / epsilon
    log_weight = torch.zeros_like(log_q[:, :1]) if weight is None else weight.float().log()[:, None]
    log_mass = torch.logsumexp(log_weight, dim=0) - math.log(scores.shape[1])  # of each prototype
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q + log_weight, dim=0, keepdim=True) + log_mass
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    return log_q.softmax(dim=1)  # changes nothing but rounding; without iterations it makes rows sum to 1
