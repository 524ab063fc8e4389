"""A step that leaves nothing behind: what a run will cost and compute is asked of its own method before it starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from nnssl.losses import Ranks
from nnssl.methods import CropBatch, Method, Views

M = TypeVar("M", bound=Method)


@contextmanager
def own_draws(device: torch.device) -> Iterator[None]:
    """Inside, random numbers (of dropout, for example) are drawn that the run does not miss."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def copied(method: M) -> M:
    """A copy to train a step on, which asks nothing of other processes: one of them may run out of memory alone."""
    alone = copy.deepcopy(method).train()
    alone.assign_ranks(Ranks())
    return alone


def random_crops(method: Method, count: int, device: torch.device) -> CropBatch:
    """Crops as the loader would bring them: time and memory do not depend on what is in them. The same in every call."""
    size = method.read_size()
    images = torch.randn(count, method.channels, *size, generator=torch.Generator().manual_seed(0))
    inside = torch.tensor([[0, n] for n in size]).expand(count, -1, -1)
    crops = CropBatch(images, inside, torch.arange(count), None).to(device)
    other = replace(crops, images=crops.images.clone())
    return replace(crops, partner=other) if method.wants_partner else crops


@torch.no_grad()
def views_of(method: Method, crops: CropBatch) -> Views:
    """What a step's forward pass gets, the same in every call."""
    return method.views(crops, torch.Generator().manual_seed(0))


def out_of_memory(error: Exception) -> bool:
    """Of a GPU, of numpy, or of torch on a CPU, which has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
