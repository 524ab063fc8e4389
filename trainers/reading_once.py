"""Tensors that one process of several reads and the others get from it, so that all go on from the very same file.

A network folder may show different machines different files for a while; and a large file is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from nnssl.trainers.process_group import by_the_first
from torch import distributed as dist

T = TypeVar("T")


def read_once(read: Callable[[], T], device: torch.device) -> T:
    """What `read` gives process 0, on all processes; `read()` where there are not several.

    Args:
        read: returns plain values and CPU tensors, in dictionaries, lists and tuples. Called in process 0 alone.
        device: of the training; the tensors travel through it where the processes have no other way to talk.

    Raises:
        NnsslError: that of process 0, on all of them.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return read()
    here: list[T] = []

    def outline() -> T:
        here.append(read())
        return with_tensors(here[0], lambda tensor: tensor.to("meta"))

    shapes = by_the_first(outline)
    through = torch.device("cpu") if "gloo" in str(dist.get_backend_config()) else device

    def travelled(tensor: torch.Tensor) -> torch.Tensor:
        own = tensor.contiguous() if here else torch.empty(tensor.shape, dtype=tensor.dtype)
        if own.numel():
            raw = own.reshape(-1).view(torch.uint8)  # not every backend knows every type
            sent = raw.to(through)
            dist.broadcast(sent, src=0)
            raw.copy_(sent)
        return own

    return with_tensors(here[0] if here else shapes, travelled)


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same dictionaries, lists and tuples, with every tensor in them changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: with_tensors(item, change) for key, item in value.items()}
    return type(value)(with_tensors(item, change) for item in value) if isinstance(value, list | tuple) else value
