"""Agreement of two embeddings of one crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def negative_cosine(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean negative cosine similarity; no gradient flows to the target (Chen and He 2021, SimSiam, eq. 1).

    Args:
        prediction: (B, D).
        target: (B, D).

    Returns:
        Scalar in [-1, 1]; -1 is perfect agreement.
    """
    return -F.cosine_similarity(prediction.float(), target.detach().float(), dim=1).mean()
