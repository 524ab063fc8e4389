"""What processes do in the tests of one step of several; a module of its own because each of them imports it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from nnssl.trainers import executor as executors
from nnssl.trainers.launch import make_trainer
from nnssl.trainers.pretraining import nnsslTrainer
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from nnssl.data.loader import rank_share
from nnssl.data.sampling import TRAINING
from nnssl.methods import Views
from nnssl.networks import DenseMasked


def executor_by_own_clock(
    request: Any, run: Any, device: torch.device, _processes: int, *, clocks: list[list[dict[str, float]]], folder: str
) -> int:
    """Begin runs in which every process has a clock of its own; write down how each then computes.

    Args:
        request, run, device: of the run.
        clocks: per run and process the seconds that a step takes with each executor, and how far `apart` their results are.
        folder: one file per process, `rank.json`: a list of [setting, executor of the method].
    """
    found = []
    for clock in clocks:
        trainer = make_trainer(request, run, device)
        mine = clock[trainer.local_rank]

        def step(network: Any, *_: Any, mine: dict[str, float] = mine) -> float:
            return mine[_name(network.executor)]

        def disagreement(*_: Any, mine: dict[str, float] = mine) -> float:
            return mine.get("apart", 0.0)

        executors._step, executors.disagreement = step, disagreement
        trainer.initialize()
        method: Any = trainer.method
        found.append([trainer.run.executor, _name(method.executor)])
    (Path(folder) / f"{trainer.local_rank}.json").write_text(json.dumps(found))
    return 0


def _name(executor: Any) -> str:
    return "dense" if executor is DenseMasked else "tiles"


def gradients(
    request: Any, run: Any, device: torch.device, _processes: int, *, settings: list[dict[str, Any]], folder: str
) -> int:
    """One step's forward and backward passes with each of the settings, on this process' share of the same views.

    Writes `world_rank.pth`: per setting loss, terms, gradients, and how often buckets of gradients were exchanged.
    """
    found = []
    for setting in settings:
        trainer = make_trainer(request, run.model_copy(update=setting), device)
        trainer.initialize()
        trainer.method.train()
        exchanged: list[int] = []

        if isinstance(trainer.network, DistributedDataParallel):
            trainer.network.register_comm_hook(exchanged, _counted)
        losses = trainer._forward_and_backward(_share_of_views(trainer))
        grads = {k: p.grad for k, p in trainer.method.named_parameters() if p.requires_grad}
        found.append({"loss": losses.total, "terms": losses.terms, "gradients": grads, "exchanged": exchanged})
    torch.save(found, Path(folder) / f"{trainer.world_size}_{trainer.local_rank}.pth")
    return 0


def _counted(exchanged: list[int], bucket):  # torch refuses annotations that are text
    exchanged.append(bucket.index())
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def _share_of_views(trainer: nnsslTrainer) -> Views:
    """Views drawn for the whole batch, as one process draws them; all of every crop counts, so that parts weigh alike."""
    rank, world = trainer.local_rank, trainer.world_size
    trainer.local_rank, trainer.world_size = 0, 1
    try:
        batch = next(trainer._loader(trainer.train_pool, TRAINING, range(1), workers=0))
        views = trainer._views(batch, TRAINING, 0)
    finally:
        trainer.local_rank, trainer.world_size = rank, world
    views["inside"] = torch.ones_like(views["inside"])
    share = rank_share(trainer.run.batch_size or 1, rank, world)
    return {k: v[share.start : share.stop] for k, v in views.items()}
