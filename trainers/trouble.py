"""Numbers that are no longer finite: the step is skipped without asking the device, and the trouble is on record.

Whether a step is sound is known on the device alone, as the norm of its gradient. Asking for it would make the host wait in
every step, so the optimiser gets it as a flag (as it does from torch's GradScaler), and the host reads what happened when it
reads the losses. On a CPU asking costs nothing, and the step is simply left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

NORMS = 32
"""Gradient norms that are remembered."""
RECORDED = ("streak", "longest", "first", "norms", "values")
"""Tensors of `Trouble`, in the checkpoint under these names."""


def marked(total: torch.Tensor) -> torch.Tensor:
    """The same loss; if it is not finite, its gradient is not either: then all processes see it after averaging."""
    detached = total.detach()
    return total * torch.where(
        torch.isfinite(detached), torch.ones_like(detached), torch.full_like(detached, torch.nan)
    )


class StepGuard:
    """Makes a step undone if its gradient is not finite: parameters, optimiser state and buffers stay as they were.

    Teachers follow the unchanged network, as after any step. An optimiser that cannot take a flag (all but fused ones) has
    its parameters and state copied before the step and put back after it, on a GPU; on other devices the host asks.

    Args:
        method: whose buffers (running statistics, queues, centres) a bad forward pass may spoil.
        optimizer: of the run.
        ask: whether the host may ask the device; None = on all devices but a GPU.
    """

    def __init__(self, method: nn.Module, optimizer: torch.optim.Optimizer, ask: bool | None = None) -> None:
        self.method, self.optimizer, self.ask = method, optimizer, ask
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def before(self) -> None:
        """Call before the forward pass."""
        self._kept = [(buffer, buffer.clone()) for buffer in self.method.buffers()]

    @torch.no_grad()
    def optimise(self, norm: torch.Tensor) -> torch.Tensor:
        """Step the optimiser if the gradient's norm is finite; returns whether it is, a 0-dim bool on the device."""
        good = torch.isfinite(norm)
        if self.ask if self.ask is not None else norm.device.type != "cuda":
            if bool(good):
                self.optimizer.step()
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        else:
            before = {id(t): t.clone() for t in self._moved(norm.device)}
            self.optimizer.step()
            for tensor in self._moved(norm.device):
                kept = before.get(id(tensor))
                tensor.copy_(torch.where(good, tensor, torch.zeros_like(tensor) if kept is None else kept))
        return good

    def _moved(self, device: torch.device) -> list[torch.Tensor]:
        """What an optimiser's step changes, on the device; step counters on the host only shift a bias correction."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        states = [v for p in parameters for v in self.optimizer.state.get(p, {}).values()]
        return [t for t in [*parameters, *states] if isinstance(t, torch.Tensor) and t.device == device]

    @torch.no_grad()
    def after(self, good: torch.Tensor) -> None:
        """Call after everything that the step moves: buffers return to what they were if the step was bad."""
        if self._kept and (good.device.type == "cuda" or not bool(good)):
            for buffer, kept in self._kept:
                buffer.copy_(torch.where(good, buffer, kept))
        self._kept = []


class Trouble:
    """What is on record about the steps of a run; all tensors on the device, and all of it in the checkpoint.

    Attributes:
        streak: bad steps in a row up to now.
        longest: the longest streak since the last look.
        first: step where it began, -1 if there was none.
        norms: (NORMS,) gradient norms, that of step s at s % NORMS.
        values: (terms,) losses of the step where the trouble began.
        names: of these losses.
    """

    def __init__(self, device: torch.device) -> None:
        self.streak, self.longest = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.norms = torch.full((NORMS,), torch.nan, device=device)
        self.values = torch.zeros(0, device=device)
        self.names: list[str] = []

    @torch.no_grad()
    def record(
        self, step: int, bad: torch.Tensor, norm: torch.Tensor, losses: Mapping[str, torch.Tensor], enough: int = 1
    ) -> None:
        """Note a step; never waits for the device.

        Args:
            step: of the run.
            bad: 0-dim bool.
            norm: of the gradient, 0-dim.
            losses: 0-dim values by name.
            enough: length of a streak that ends in a diagnosis; what comes after one, until the next look, hides nothing.
        """
        values = torch.stack([v.detach().float() for v in losses.values()])
        if self.names != list(losses):
            self.names, self.values = list(losses), torch.zeros_like(values)
        begins = bad & (self.streak == 0) & (self.longest < enough)
        self.streak = (self.streak + 1) * bad
        self.longest = torch.maximum(self.longest, self.streak)
        self.first = torch.where(begins, step, self.first)
        self.values = torch.where(begins, values, self.values)
        self.norms[step % NORMS] = norm.float()

    def look(self) -> int:
        """The longest streak since the last look. The host waits for the device here."""
        longest = int(self.longest)
        self.longest = self.streak.clone()
        return longest

    def content(self) -> dict[str, Any]:
        """For the checkpoint."""
        tensors = {k: getattr(self, k).cpu() for k in RECORDED}
        return {**tensors, "names": list(self.names)}

    @classmethod
    def restored(cls, content: Mapping[str, Any] | None, device: torch.device) -> Trouble:
        """From a checkpoint; those of the first format have none."""
        trouble = cls(device)
        if content is not None:
            for key in RECORDED:
                setattr(trouble, key, content[key].to(device))
            trouble.names = list(content["names"])
        return trouble

    def diagnosis(self, step: int, cases: Sequence[str] = ()) -> str:
        """A sentence or two: since when, which terms, what the gradient did before.

        Args:
            step: the step after the last one that was made.
            cases: those in the batch where it began.
        """
        first = int(self.first)
        wrong = [f"{n} ({v:g})" for n, v in zip(self.names, self.values.tolist()) if not math.isfinite(v)]
        terms = f"not finite there: {', '.join(wrong)}" if wrong else "the loss was finite there, its gradient was not"
        earlier = [self.norms[s % NORMS].item() for s in range(max(0, step - NORMS, first - 8), max(first, 0))]
        text = f"loss or gradient not finite from step {first} on; {terms}"
        if earlier:
            text += f"; gradient norms of the steps before: {', '.join(f'{n:.3g}' for n in earlier)}"
        if cases:
            shown = list(dict.fromkeys(cases))
            text += f"; cases of that step: {', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''}"
        return text


class RollBack(Exception):
    """The run must go back to the checkpoint of its last fixed place; the text is the diagnosis."""


@torch.no_grad()
def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether every value is finite; one question to the device."""
    floats = [t for t in tensors if t.is_floating_point() and t.numel()]
    if not floats:
        return True
    return bool(torch.isfinite(torch.stack([n.float() for n in torch._foreach_norm(floats, float("inf"))])).all())
