"""`--dry-run`: what would run, with memory and time measured on one real step. Writes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from nnssl.trainers.elsewhere import folders_below
from nnssl.trainers.empty_crops import empty_advice
from nnssl.trainers.launch import Request, launch, limit_threads, make_trainer, prepare, run_folder
from nnssl.trainers.monitor import duration
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.trainers.run_config import RunConfig

from nnssl.data.sampling import TRAINING
from nnssl.methods.sparse_encoding import SparseEncoding

log = logging.getLogger(__name__)

TIMED_STEPS = 3


def dry_run(request: Request, preview: Path | None = None) -> int:
    """Print network, parameters, data, memory and a time estimate for a request.

    Args:
        request: as for a run.
        preview: PNG to write: what the network sees in a training step, augmentation included.
    """
    request = dataclasses.replace(request, overwrite=False, resume=False)
    job = partial(_measure, preview=preview, folder=run_folder(request))
    with tempfile.TemporaryDirectory() as elsewhere, folders_below(elsewhere, ["nnUNet_results"]):
        return launch(request, job)


def _measure(
    request: Request, settings: RunConfig, device: torch.device, processes: int, *, preview: Path | None, folder: Path
) -> int:
    """Measure a request in this process; of several processes, all take their part and the first reports."""
    limit_threads(device, processes)
    trainer = _quietly(request, settings, device)
    both = settings.executor == "auto" and any(isinstance(m, SparseEncoding) for m in trainer.method.modules())
    memory_before = None if both else _memory(device)  # a process knows its peak only
    if preview is not None:  # before the timed steps: the weights a run begins with
        preview.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_preview(preview, TRAINING)
    seconds = _seconds_per_step(trainer)
    lines = _report(trainer, folder, seconds, memory_before)
    if preview is not None:
        lines.append(f"wrote       {preview}")
    for line in lines if trainer.local_rank == 0 else ():
        log.info("%s", line)
    return 0


def initialized_trainer(request: Request, device: torch.device) -> tuple[RunConfig, nnsslTrainer]:
    """The settings as asked for and the trainer of a request, ready for its first step; nnU-Net's talk is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        settings = prepare(request)
    return settings, _quietly(request, settings, device)


def _quietly(request: Request, settings: RunConfig, device: torch.device) -> nnsslTrainer:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(request, settings, device)
        trainer.initialize()
    return trainer


def _seconds_per_step(trainer: nnsslTrainer) -> float:
    """Median of a few real steps after a first one that warms up."""
    times = []
    trainer.method.train()
    steps = range(TIMED_STEPS + 1)
    for batch in trainer._loader(trainer.train_pool, TRAINING, steps, workers=0):
        begin = time.perf_counter()
        trainer._step(batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[TIMED_STEPS // 2]


def _memory(device: torch.device) -> float:
    """Peak memory so far in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _report(trainer: nnsslTrainer, folder: Path, seconds: float, memory_before: float | None) -> list[str]:
    run = trainer.run
    parameters = sum(p.numel() for p in trainer.method.parameters())
    encoder = sum(p.numel() for p in trainer.method.exported().encoder.parameters())
    architecture = trainer.configuration_manager.configuration["architecture"]
    kwargs = architecture["arch_kwargs"]
    steps = run.epochs * run.iterations
    empty = trainer._means({"empty": trainer.state.sums["empty_crops"]}, trainer.state.step)["empty"]
    used = _memory(trainer.device)
    if trainer.device.type == "cuda":
        where = "GPU"
    elif memory_before is None:
        where = "measuring both ways included"
    else:
        where = f"of which {(used - memory_before) / 2**30:.2f} for training"
    patch = "x".join(str(n) for n in trainer.method.read_size())
    options = ", ".join(f"{k}={v}" for k, v in run.options.items())
    return [
        f"method      {run.method} ({options})",
        f"network     {architecture['network_class_name'].rsplit('.', 1)[-1]}, features "
        f"{'-'.join(str(f) for f in kwargs['features_per_stage'])}, strides {kwargs['strides']}",
        f"parameters  {parameters:,}, the encoder {encoder:,}",
        f"data        {len(trainer.train_pool)} cases, {trainer.num_input_channels} channel(s), crops {patch}, "
        f"batch {run.batch_size}" + (f" over {trainer.world_size} processes" if trainer.world_size > 1 else ""),
        *(f"            {line}" for line in [*trainer.pools.lines, *trainer.network_lines]),
        f"optimiser   {run.optimizer}, peak learning rate {run.lr:g}, {run.schedule}, warm-up {100 * (run.warmup or 0):g} %",
        f"memory      {used / 2**30:.2f} GiB peak ({where}{', the first process' if trainer.world_size > 1 else ''})",
        f"time        {seconds:.3f} s per step (measured, without waiting for data), {steps:,} steps: "
        f"{duration(seconds * steps)} on {trainer.device.type}",
        f"empty crops {100 * empty:.0f} % (of {trainer.state.step * (run.batch_size or 1)} crops)",
        *(f"WARNING: {line}" for line in empty_advice({"empty_crops": empty}, run.body_share)),
        *(f"WARNING: {line}" for line in trainer.method.advice(len(trainer.train_pool), run.batch_size or 1)),
        f"would write {folder}",
    ]
