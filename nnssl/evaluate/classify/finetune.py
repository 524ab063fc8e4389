"""Fine-tuning of encoder and head on whole images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.metrics import r2_score, recall_score
from torch import nn
from torch.nn import functional as F

from nnssl.evaluate.classify.augment import augment
from nnssl.evaluate.classify.curve import Follow, Point
from nnssl.evaluate.classify.data import Data
from nnssl.evaluate.classify.network import Classifier
from nnssl.evaluate.classify.settings import ClassifySettings
from nnssl.evaluate.labels import Kind
from nnssl.views import Geometry

WARMUP_SHARE = 0.1
EVALUATIONS = 20
"""How often validation images are looked at, if nothing else is said."""


def train(
    network: Classifier,
    training: Data,
    validation: Data | None,
    known: np.ndarray,
    geometry: Geometry,
    settings: ClassifySettings,
    device: torch.device,
    follow: Follow | None = None,
) -> list[Point]:
    """Train in place; with validation images and `select` best, end with the weights that did best on them.

    Args:
        network: encoder and head.
        training: images; classes are weighted by their inverse frequency in the loss, a quantity is standardised.
        validation: images of other patients to look at on the way; None = the last weights.
        known: all classes in order; for a quantity its mean and standard deviation.
        geometry: of the images, for augmentation.
        settings: rates, steps, seed.
        device: to train on.
        follow: see `Follow`.

    Returns:
        The evaluations; none without validation images.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    loss_of = _Loss(training, known).to(device)
    target = encode(training.values, training.kind, known)
    steps, frozen = settings.schedule(len(training.names))
    network.to(device)
    optimizer = _optimizer(network, settings)
    order, watch = _endless(len(target), generator), _Watch(network, validation, known, loss_of, device, follow)
    every = settings.evaluate_every or max(1, steps // EVALUATIONS)
    watch.look(0)
    for step in range(1, steps + 1):
        network.train()
        network.freeze_encoder(step <= frozen)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate((step - 0.5) / steps)
        rows = torch.tensor([next(order) for _ in range(min(settings.batch_size, len(target)))])
        x = training.images[rows].to(device)
        if settings.augment or settings.flip:
            x = augment(x, geometry, generator, settings.augment, settings.flip)
        loss = loss_of(network(x), target[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        watch.losses.append(loss.detach())
        if step % every == 0 or step == steps:
            watch.look(step)
    if settings.select == "best":
        watch.restore_best()
    network.eval()
    return watch.points


class _Loss(nn.Module):
    """Cross-entropy weighted by inverse class frequency, or the squared error."""

    def __init__(self, training: Data, known: np.ndarray) -> None:
        super().__init__()
        self.kind = training.kind
        target = encode(training.values, training.kind, known)
        weight = _balance(target, len(known)) if self.kind == "classes" else torch.ones(1)
        self.register_buffer("weight", weight)

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.kind == "classes":
            return F.cross_entropy(output, target, self.weight)  # type: ignore[arg-type]
        return F.mse_loss(output[:, 0], target)


class _Watch:
    """Looks at validation images, and keeps the weights that did best; the clock stands still meanwhile."""

    def __init__(
        self,
        network: Classifier,
        validation: Data | None,
        known: np.ndarray,
        loss_of: _Loss,
        device: torch.device,
        follow: Follow | None,
    ) -> None:
        self.network, self.validation, self.known = network, validation, known
        self.loss_of, self.device, self.follow = loss_of, device, follow
        self.points: list[Point] = []
        self.losses: list[torch.Tensor] = []
        self._best: tuple[tuple[float, float], dict[str, Any]] | None = None
        self._seconds, self._since = 0.0, time.monotonic()

    @torch.no_grad()
    def look(self, step: int) -> None:
        """A point, if there are validation images."""
        mean = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        self.losses = []
        if self.validation is None:
            return
        self._seconds += time.monotonic() - self._since
        rows = outputs(self.network, self.validation.images, self.device)
        target = encode(self.validation.values, self.validation.kind, self.known)
        loss = float(self.loss_of(rows.to(self.device), target.to(self.device)))
        if self.validation.kind == "classes":
            truth, said = target.numpy(), rows.argmax(1).numpy()
            # balanced accuracy: the mean recall of the classes that are there
            score = float(recall_score(truth, said, labels=np.unique(truth), average="macro"))
        else:
            score = float(r2_score(target.numpy(), rows[:, 0].numpy())) if len(target) > 1 else -loss
        self.points.append(Point(step, round(self._seconds, 2), mean, score, loss))
        if self._best is None or (score, -loss) > self._best[0]:
            self._best = (score, -loss), copy.deepcopy(self.network.state_dict())
        if self.follow is not None:
            self.follow(self.points)
        self._since = time.monotonic()

    def restore_best(self) -> None:
        """Put the best weights back; the last ones stay where nothing was looked at."""
        if self._best is not None:
            self.network.load_state_dict(self._best[1])


@torch.no_grad()
def outputs(network: Classifier, images: torch.Tensor, device: torch.device, batch: int = 16) -> torch.Tensor:
    """(N, outputs) of the network in evaluation mode, on the CPU."""
    network.eval()
    return torch.cat([network(x.to(device)).float().cpu() for x in images.split(batch)])


def answers(rows: torch.Tensor, kind: Kind, known: np.ndarray) -> np.ndarray:
    """(N, outputs) -> (N, classes) probabilities, or (N,) quantities."""
    return rows.softmax(1).numpy() if kind == "classes" else rows[:, 0].numpy() * known[1] + known[0]


def encode(values: np.ndarray, kind: Kind, known: np.ndarray) -> torch.Tensor:
    """Numbers of classes, or standardised quantities."""
    if kind == "classes":
        return torch.from_numpy(np.searchsorted(known, values))
    return torch.from_numpy(((values - known[0]) / known[1]).astype(np.float32))


def _optimizer(network: Classifier, settings: ClassifySettings) -> torch.optim.Adam:
    encoder = list(network.encoder.parameters())
    head = [*network.norm.parameters(), *network.head.parameters()]
    groups = [
        {"params": encoder, "peak": settings.lr, "lr": settings.lr},
        {"params": head, "peak": settings.lr * settings.head_lr, "lr": settings.lr * settings.head_lr},
    ]
    return torch.optim.Adam(groups, weight_decay=settings.weight_decay)


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
