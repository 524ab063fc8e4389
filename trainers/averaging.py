"""Average of the weights along a training: the answer of a smaller learning rate without the wait for it.

Polynomial-decay averaging (Shamir & Zhang, ICML 2013, arXiv 1212.1824): step t weighs t^power, so the average looks
back over a fixed share of the training so far, about 1 / (power + 1), and needs no horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Running average of a module's parameters and floating-point buffers (running statistics of batch norm).

    Args:
        module: what is followed; the bare network, not a wrapper.
        power: weight of step t is t^power; larger = shorter memory.
    """

    def __init__(self, module: nn.Module, power: float) -> None:
        followed = [*module.named_parameters(), *module.named_buffers()]
        followed = [(name, p) for name, p in followed if p.is_floating_point()]
        self._names = [name for name, _ in followed]
        self._parameters = [p for _, p in followed]
        self._average = [p.detach().clone() for p in self._parameters]
        self._power = power
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self._steps += 1
        share = (self._power + 1) / (self._steps + self._power)
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the average inside, its own weights again afterwards."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange average and weights; before the first step they are one."""
        if self._steps == 0:
            return
        kept = [p.detach().clone() for p in self._parameters]
        torch._foreach_copy_([p.detach() for p in self._parameters], self._average)
        self._average = kept

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """For a checkpoint."""
        return {"steps": self._steps, "average": dict(zip(self._names, self._average, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping) -> None:
        """From a checkpoint."""
        self._steps = state["steps"]
        self._average = [
            state["average"][name].to(p.device).clone() for name, p in zip(self._names, self._parameters, strict=True)
        ]
