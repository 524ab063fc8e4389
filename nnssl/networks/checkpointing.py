"""Gradient checkpointing: what is inside a stage is computed again for the backward pass instead of being kept.

Chen et al. 2016, Training deep nets with sublinear memory cost (arXiv 1604.06174). Only what enters and leaves a stage stays
in memory, which costs about one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed:
    """Takes the place of a stage's `forward`. The stage keeps its type, its parameters and their names.

    Random numbers (dropout, stochastic depth) are drawn again as they were; running statistics of batch norms move once.

    Args:
        stage: the module.
    """

    def __init__(self, stage: nn.Module) -> None:
        self.stage = stage

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The stage's own forward."""
        return self.run(partial(type(self.stage).forward, self.stage), x)

    def run(self, compute: Callable[[Any], Any], x: Any) -> Any:
        """`compute(x)`, which runs the stage's modules, once more in the backward pass."""
        if not torch.is_grad_enabled():
            return compute(x)
        tracking = [
            m for m in self.stage.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        ]
        if not tracking:  # torch.compile knows no contexts of our own
            return checkpoint(compute, x, use_reentrant=False)
        return checkpoint(compute, x, use_reentrant=False, context_fn=partial(_contexts, tracking))


def _contexts(norms: list[Any]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Of the forward pass, and of its repetition."""
    return nullcontext(), _still(norms)


@contextmanager
def _still(norms: list[Any]) -> Iterator[None]:
    """The norms move copies of their running statistics: autograd wants the same computation, state wants it once."""
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in list(norm._buffers.items()):
            if buffer is not None:
                norm._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept):
            norm._buffers.update(buffers)


def checkpoint_stages(module: nn.Module) -> int:
    """Checkpoint every stage of the encoders and decoders in a module.

    A stage is what stands in a list called `stages`, and in a feature extractor of timm what it calls one after the other.

    Returns:
        How many stages there are; 0 = nothing to save.
    """
    stages = {id(stage): stage for m in module.modules() for stage in _stages(m)}
    for stage in stages.values():
        stage.forward = Checkpointed(stage)
    return len(stages)


def _stages(module: Any) -> list[nn.Module]:
    """The stages that a module calls itself, with one tensor each."""
    if hasattr(getattr(module, "feature_info", None), "reduction"):  # timm: children one by one, or blocks in a row
        rows = module.blocks if isinstance(getattr(module, "blocks", None), nn.Sequential) else module.children()
        return [m for m in rows if any(True for _ in m.children()) and any(True for _ in m.parameters())]
    stages = vars(module).get("_modules", {}).get("stages")
    return list(stages) if isinstance(stages, nn.ModuleList | nn.Sequential) else []


def checkpointed(stage: nn.Module) -> Checkpointed | None:
    """What `checkpoint_stages` has put in, for those who walk through a stage's modules themselves."""
    forward = stage.forward
    return forward if isinstance(forward, Checkpointed) else None
