"""What collapse looks like in numbers. Embeddings that all point the same way score any joint-embedding loss well."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def embedding_std(z: torch.Tensor) -> float:
    """Standard deviation of unit embeddings, times sqrt(D): about 1 when they fill the sphere, 0 when they are one point.

    Chen and He 2021, SimSiam, figure 2.

    Args:
        z: (N, D), N >= 2.
    """
    return float(F.normalize(z.float(), dim=1).std(dim=0).mean() * z.shape[1] ** 0.5)


def effective_rank(z: torch.Tensor) -> float:
    """Exponential of the entropy of the singular values of the centred embeddings, between 1 and min(N - 1, D).

    Roy and Vetterli 2007; Garrido et al. 2023, RankMe. A fall towards 1 is dimensional collapse.

    Args:
        z: (N, D), N >= 2.
    """
    unit = F.normalize(z.double(), dim=1)
    singular = torch.linalg.svdvals(unit - unit.mean(dim=0))
    p = singular / singular.sum().clamp(min=1e-12)
    return float(torch.exp(-torch.xlogy(p, p).sum()))


def knn_agreement(z1: torch.Tensor, z2: torch.Tensor) -> float:
    """Share of crops whose nearest second view, of all crops' second views, is their own. Chance is 1 / N.

    Args:
        z1, z2: (N, D), row i of both being views of crop i.
    """
    similarity = F.normalize(z1.float(), dim=1) @ F.normalize(z2.float(), dim=1).T
    return float((similarity.argmax(dim=1) == torch.arange(len(z1), device=z1.device)).float().mean())
