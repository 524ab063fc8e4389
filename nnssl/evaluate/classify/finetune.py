"""Fine-tuning of encoder and head on whole images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.labels import Kind

WARMUP_SHARE = 0.1
SHIFT_SHARE = 0.05
"""Largest random shift, as a share of the edge."""
NOISE = 0.05


def train(
    network: Classifier,
    images: torch.Tensor,
    values: np.ndarray,
    kind: Kind,
    known: np.ndarray,
    settings: ClassifySettings,
    device: torch.device,
) -> None:
    """Train in place for the settings' number of steps, whatever the number of images.

    Args:
        network: encoder and head.
        images: (N, S, C, *spatial).
        values: target of each.
        kind: classes, weighted by their inverse frequency in the loss, or a quantity, standardised.
        known: all classes in order; for a quantity its mean and standard deviation.
        settings: rates, steps, seed.
        device: to train on.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    target = encode(values, kind, known)
    weight = _balance(target, len(known)).to(device) if kind == "classes" else None
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    order = _endless(len(images), generator)
    for step in range(settings.steps):
        network.train()
        network.freeze_encoder(step < settings.freeze_share * settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate((step + 0.5) / settings.steps)
        rows = torch.tensor([next(order) for _ in range(min(settings.batch_size, len(images)))])
        x = augment(images[rows], settings.flip, generator).to(device)
        output = network(x)
        y = target[rows].to(device)
        loss = F.cross_entropy(output, y, weight) if kind == "classes" else F.mse_loss(output[:, 0], y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    network.eval()


@torch.no_grad()
def answers(
    network: Classifier, images: torch.Tensor, kind: Kind, known: np.ndarray, device: torch.device, batch: int = 16
) -> np.ndarray:
    """(N, classes) probabilities, or (N,) quantities."""
    network.eval()
    rows = torch.cat([network(x.to(device)).float().cpu() for x in images.split(batch)])
    return rows.softmax(1).numpy() if kind == "classes" else (rows[:, 0].numpy() * known[1] + known[0])


def encode(values: np.ndarray, kind: Kind, known: np.ndarray) -> torch.Tensor:
    """Numbers of classes, or standardised quantities."""
    if kind == "classes":
        return torch.from_numpy(np.searchsorted(known, values))
    return torch.from_numpy(((values - known[0]) / known[1]).astype(np.float32))


def augment(x: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """A small shift, a little noise, and if asked for flips; parameters per case, the same for its slices."""
    shifted = []
    for case in x:
        axes = range(2, case.ndim)
        moves = [int((2 * torch.rand(1, generator=generator) - 1) * SHIFT_SHARE * case.shape[a]) for a in axes]
        case = torch.roll(case, moves, list(axes))
        if flip:
            turned = [a for a in axes if torch.rand(1, generator=generator) < 0.5]
            case = case.flip(turned) if turned else case
        shifted.append(case)
    batch = torch.stack(shifted)
    return batch + NOISE * torch.randn(batch.shape, generator=generator)


def _balance(target: torch.Tensor, classes: int) -> torch.Tensor:
    counts = torch.bincount(target, minlength=classes).float()
    return torch.where(counts > 0, len(target) / (classes * counts.clamp(min=1)), torch.zeros(1))


def _rate(progress: float) -> float:
    """Linear ramp, then half a cosine."""
    if progress < WARMUP_SHARE:
        return progress / WARMUP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP_SHARE) / (1 - WARMUP_SHARE)))


def _endless(count: int, generator: torch.Generator) -> Iterator[int]:
    """Numbers in shuffled passes, each seen once before any is seen twice."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
