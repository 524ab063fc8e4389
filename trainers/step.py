"""One training step: views, forward, backward, optimiser, what the method moves by itself.

It does not wait for the device, but for RAdam and LAMB in float16 (see `PUT_BACK`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from nnssl.trainers.checkpoint import RunState
from nnssl.trainers.empty_crops import empty_share
from nnssl.trainers.optimisers import set_lr
from nnssl.trainers.precision import autocast
from nnssl.trainers.run_config import RunConfig
from nnssl.trainers.schedule import warmup_then
from nnssl.trainers.trouble import StepGuard, marked
from torch import distributed as dist
from torch import nn

from nnssl.data.loader import rank_share
from nnssl.data.sampling import TRAINING
from nnssl.methods import CropBatch, Losses, Method, Views
from nnssl.methods.base import OptimizerName

SKIPPED = "skipped_steps"
"""Among the sums of an epoch: steps that were not made because their numbers were not finite."""
PUT_BACK: tuple[OptimizerName, ...] = ("lars",)
"""Optimisers that a loss scaler would ask the device for, and that the guard puts back instead.

Fused kernels take a flag. RAdam and LAMB count their steps on the host, and overflows, which a scaler meets by design, must
not be counted: for these two, in float16, the host waits in every step.
"""


class TrainingStep:
    """The part of the trainer that makes a step; the trainer's `initialize` sets what is declared here."""

    run: RunConfig
    state: RunState
    num_epochs: int
    num_iterations_per_epoch: int
    local_rank: int
    world_size: int
    device: torch.device
    precision: torch.dtype
    method: Method
    network: Any
    optimizer: torch.optim.Optimizer
    grad_scaler: torch.amp.GradScaler | None
    guard: StepGuard
    _scales_C: torch.Tensor

    def _step(self, batch: CropBatch) -> None:
        """One optimiser step. No host synchronisation: losses are summed up on the device."""
        step = self.state.epoch * self.num_iterations_per_epoch + self.state.step
        total = self.num_epochs * self.num_iterations_per_epoch
        run = self.run
        rate = run.lr * self.state.rate * warmup_then(run.schedule, step, total, run.warmup)  # type: ignore[operator, arg-type]
        set_lr(self.optimizer, rate)
        # 1. views
        views = self._views(batch, TRAINING, step)
        # 2. forward and backward
        self.guard.before()
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._forward_and_backward(views)
        # 3. optimiser, then what the method moves by itself (teacher, queue); nothing of it if the numbers are not finite
        norm, good = self._optimiser_step()
        self.method.after_step((step + 1) / total)
        self.guard.after(good)
        empty = empty_share(batch, self._scales_C)
        if self.world_size > 1:  # like the terms, scaled so that the processes' average is the big batch's
            empty = empty * (batch.images.shape[0] * self.world_size / (run.batch_size or 1))
        seen = {"train_loss": losses.total.detach(), **losses.terms}
        for name, value in {**seen, "empty_crops": empty}.items():
            self.state.sums[name] = self.state.sums.get(name, 0) + torch.where(good, value.float(), 0.0)
        self.state.sums[SKIPPED] = self.state.sums.get(SKIPPED, 0) + (~good).float()
        # a loss scaler is meant to overflow now and then; the loss itself is not
        bad = ~good if self.grad_scaler is None else self._anywhere(~torch.isfinite(losses.total))
        self.state.trouble.record(step, bad, norm, seen, run.nonfinite_steps)
        self.state.step += 1

    def _views(self, batch: CropBatch, stream: int, step: int) -> Views:
        """Views of a batch; their generator, and torch's own for dropout in the network, follow from the step."""
        words = np.random.SeedSequence((self.run.seed, stream, step, self.local_rank)).generate_state(2, np.uint64)
        torch.manual_seed(int(words[0] >> np.uint64(1)))
        generator = torch.Generator().manual_seed(int(words[1] >> np.uint64(1)))
        with torch.no_grad():
            return self.method.views(batch, generator)

    def _forward_and_backward(self, views: Views) -> Losses:
        """Losses of the batch, detached; their gradient is in the parameters. In `accumulate` parts, one after the other."""
        sums: dict[str, torch.Tensor] = {}
        parts = self.micro_batches()
        for number, (rows, share) in enumerate(parts, start=1):
            part = views if len(parts) == 1 else {name: view[rows] for name, view in views.items()}
            # processes exchange gradients once, after the last part
            waiting = number < len(parts) and isinstance(self.network, nn.parallel.DistributedDataParallel)
            with self.network.no_sync() if waiting else nullcontext():
                with self._autocast():
                    losses = self.network(part)
                loss = marked(losses.total) * share if len(parts) > 1 else marked(losses.total)
                (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()
            if len(parts) == 1:
                return Losses(losses.total.detach(), losses.terms)
            for name, value in {"": losses.total.detach(), **losses.terms}.items():
                sums[name] = sums.get(name, 0) + value.float() * share
        return Losses(sums.pop(""), sums)

    def micro_batches(self) -> list[tuple[slice, float]]:
        """The parts that a batch is worked through in: this process' rows, and the part's share of the batch's crops."""
        batch, parts = self.run.batch_size or 1, self.run.accumulate
        held = [len(rank_share(batch, rank, self.world_size)) for rank in range(self.world_size)]
        rows = [rank_share(held[self.local_rank], k, parts) for k in range(parts)]
        crops = [sum(len(rank_share(n, k, parts)) for n in held) for k in range(parts)]
        return [(slice(r.start, r.stop), n / batch) for r, n in zip(rows, crops)]

    def _optimiser_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip and step; the gradient's norm, and whether it was finite and the step therefore made. Both 0-dim."""
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.run.clip)  # type: ignore[arg-type]
        if self.grad_scaler is None:
            return norm, self.guard.optimise(norm)
        if self.run.optimizer in PUT_BACK:
            good = self.guard.optimise(norm)
        else:
            self.grad_scaler.step(self.optimizer)
            good = torch.isfinite(norm)
        self.grad_scaler.update()
        return norm, good

    def _anywhere(self, flag: torch.Tensor) -> torch.Tensor:
        """Whether a 0-dim bool is true in any process: what all act on together must not follow from one's own numbers."""
        if self.world_size == 1:
            return flag
        greatest = flag.float()
        dist.all_reduce(greatest, dist.ReduceOp.MAX)  # NCCL queues it like any operation: the host does not wait
        return greatest > 0

    def _autocast(self) -> Any:
        return autocast(self.precision, self.device)
