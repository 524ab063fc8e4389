"""The crops a run begins with, beside the views that a method makes of them."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch

from nnssl.data.sampling import TRAINING
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.elsewhere import folders_below
from nnssl.trainers.launch import Request, limit_threads, pick_device
from nnssl.trainers.preview import save_preview

CROPS = 2
"""Crops per step: enough to look at; methods that contrast crops need two."""


def draw_views(dataset: str, configuration: str, method: str, plans: str) -> bytes:
    """PNG with one row per crop: the crop as it is read, then the pictures of the method's own preview.

    The very crops and views of a run's first training step with seed 0 and this batch size, with the network as it is
    then: untrained.

    Args:
        dataset: name of the dataset; preprocessed.
        configuration: of the plans.
        method: name of the method, or a sum `a+b`.
        plans: name of the plans.

    Raises:
        NnsslError: not preprocessed, out of date, or not for this method.
    """
    device = pick_device(None)
    limit_threads(device)
    request = Request(dataset, configuration, method, plans, flags={"batch_size": CROPS})
    with tempfile.TemporaryDirectory() as elsewhere, folders_below(elsewhere, ["nnUNet_results"]):
        return _draw(dataclasses.replace(request, device=device.type), device, Path(elsewhere))


def _draw(request: Request, device: torch.device, folder: Path) -> bytes:
    _, trainer = initialized_trainer(request, device)
    trainer.method.train()
    # The trainer's own steps, as in its save_preview: a preview made in any other way would show something else.
    batch = next(iter(trainer._loader(trainer.train_pool, TRAINING, range(1), workers=0)))
    with torch.no_grad(), trainer._autocast():
        pictures = trainer.method.preview(trainer._views(batch, TRAINING, 0))
    rows = min(len(batch.images), *(len(p) for p in pictures.values()))
    shown = {"crop as read": batch.images, **pictures}
    target = folder / "views.png"
    title = f"{request.method}, {request.dataset}, {request.configuration}, untrained"
    save_preview(target, {name: p[:rows] for name, p in shown.items()}, batch, title)
    return target.read_bytes()
