"""From a command line to running trainers: one process, several on this node, or one of many under torchrun."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from nnssl.trainers.methods import trainer_for
from nnssl.trainers.pretraining import FINAL, LATEST, nnsslTrainer
from nnssl.trainers.run_config import RunConfig, make_run_config, restored_run_config
from nnssl.trainers.stopping import SIGNALS
from torch import distributed as dist
from torch import multiprocessing as mp

from nnssl.data.cpus import usable_cpus
from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans, resolve_dataset
from nnssl.errors import USER_ERROR, NnsslError, did_you_mean
from nnssl.files import read_json


@dataclass(frozen=True)
class Request:
    """What `nnssl_pretrain` was asked for."""

    dataset: str
    configuration: str
    method: str
    plans: str = "nnsslPlans"
    fold: str = "all"
    flags: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    config_file: Path | None = None
    name: str | None = None
    device: str | None = None
    processes: int = 1
    resume: bool = False
    overwrite: bool = False
    debug: bool = False


def launch(request: Request) -> int:
    """Check the request, then run it; returns the exit code.

    Raises:
        NnsslError: anything that can be known to be wrong before the training begins.
    """
    if request.resume and request.overwrite:
        raise NnsslError("--c continues a run and --overwrite throws it away: choose one")
    under_torchrun = "WORLD_SIZE" in os.environ and "RANK" in os.environ
    if under_torchrun and request.processes > 1:
        raise NnsslError("torchrun starts the processes: leave -num_gpus out")
    device = pick_device(request.device, request.processes)
    run = prepare(request)
    if under_torchrun:
        return _train_process(int(os.environ.get("LOCAL_RANK", 0)), request, run, device, None)
    if request.processes == 1:
        return _train(request, run, device)
    return _train_processes(request, run, device)


def prepare(request: Request) -> RunConfig:
    """The run's settings, after every check that needs no training; clears an overwritten run."""
    asked = _placed(make_run_config(request.method, request.flags, request.config_file, request.sets))
    fold_of(request.fold)
    folder = run_folder(request)
    if request.overwrite and folder.is_dir():
        shutil.rmtree(folder)
    config = folder / "config.json"
    if request.resume and config.is_file():
        saved = restored_run_config(read_json(config)["config"])
        _same_run(asked, saved, request)
        return saved
    if not request.resume and any((folder / f).is_file() for f in (LATEST, FINAL)):
        raise NnsslError(
            f"{folder} already holds a run: continue it with --c, throw it away with --overwrite, or tell the new one "
            "apart with --name"
        )
    return asked


def _placed(run: RunConfig) -> RunConfig:
    """The same settings with full names of datasets and the full path of the weights, so that `--c` works from anywhere."""
    return run.model_copy(
        update={
            "with_datasets": [resolve_dataset(d, "nnUNet_preprocessed") for d in run.with_datasets],
            "case_weights": run.case_weights and str(Path(run.case_weights).expanduser().resolve()),
        }
    )


def run_folder(request: Request) -> Path:
    """Where a request's run lies: nnU-Net's results layout, with the checks of dataset, plans and configuration."""
    name = resolve_dataset(request.dataset, "nnUNet_preprocessed")
    plans = read_plans(name, request.plans)
    known = list(plans["configurations"])
    if request.configuration not in known:
        raise NnsslError(
            f"configuration '{request.configuration}' is not in {request.plans} of {name}."
            f"{did_you_mean(request.configuration, known)} There are: {', '.join(known)}"
        )
    trainer = trainer_for(request.method, request.name).__name__
    results = nnunet_folder("nnUNet_results", create=True)
    return results / name / f"{trainer}__{request.plans}__{request.configuration}" / f"fold_{fold_of(request.fold)}"


def fold_of(text: str) -> str | int:
    """`all` or a number."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise NnsslError(f"-f {text}: give 'all' or a fold number (0-4)")
    return int(text)


def pick_device(wanted: str | None, processes: int) -> torch.device:
    """The wanted device, or the best there is; checks that it exists."""
    if wanted is None:
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise NnsslError(
            "-device cuda: torch finds no usable GPU here; use -device cpu, or check driver and torch build"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise NnsslError("-device mps: this machine has no usable Apple GPU; use -device cpu")
    if wanted == "mps" and processes > 1:
        raise NnsslError("-num_gpus: several processes need cuda or cpu")
    if wanted == "cuda" and processes > torch.cuda.device_count():
        raise NnsslError(f"-num_gpus {processes}: there are only {torch.cuda.device_count()} GPU(s)")
    return torch.device(wanted)


def make_trainer(request: Request, run: RunConfig, device: torch.device) -> nnsslTrainer:
    """The trainer of a request, as nnU-Net would construct it."""
    name = resolve_dataset(request.dataset, "nnUNet_preprocessed")
    plans = read_plans(name, request.plans)
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / name / "dataset.json")
    plans |= {"continue_training": request.resume, "nnssl_run": run.model_dump()}
    trainer = trainer_for(request.method, request.name)
    return trainer(plans, request.configuration, fold_of(request.fold), dataset_json, device)


def limit_threads(device: torch.device, processes: int = 1) -> None:
    """All processors for training on a CPU, one thread beside a GPU; OMP_NUM_THREADS has the last word."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cpus() // processes) if device.type == "cpu" else 1)


def _train(request: Request, run: RunConfig, device: torch.device, processes: int = 1) -> int:
    limit_threads(device, processes)
    trainer = make_trainer(request, run, device)
    try:
        trainer.initialize()
    except NnsslError:
        _leave_no_trace(trainer)
        raise
    if request.resume:
        found = [f for f in (FINAL, LATEST) if (Path(trainer.output_folder) / f).is_file()]
        if found:
            trainer.load_checkpoint(str(Path(trainer.output_folder) / found[0]))
        else:
            trainer.print_to_log_file("--c: no checkpoint of this run yet, it starts from the beginning")
    trainer.run_training()
    return 0


def _leave_no_trace(trainer: nnsslTrainer) -> None:
    """Remove the run folder that nnU-Net's constructor made, if the run never began: it holds nothing but a log."""
    folder = Path(trainer.output_folder)
    if trainer.local_rank == 0 and all(p.name.startswith("training_log") for p in folder.iterdir()):
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other folds live beside it
            folder.parent.rmdir()


def _train_process(local_rank: int, request: Request, run: RunConfig, device: torch.device, world: int | None) -> int:
    """One rank of a distributed run; the process group comes from the environment."""
    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        return _train(request, run, device, world or int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    finally:
        dist.destroy_process_group()


def _train_processes(request: Request, run: RunConfig, device: torch.device) -> int:
    """Start one process per rank, hand on the signals that ask to stop, and return the ranks' exit code."""
    context = mp.spawn(_spawned, args=(request, run, device, _free_port()), nprocs=request.processes, join=False)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        for pid in context.pids():
            with contextlib.suppress(ProcessLookupError):  # this rank has left already
                os.kill(pid, number)

    former = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as left:
        if left.exit_code == USER_ERROR or left.exit_code > 128:
            return int(left.exit_code)
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return 0


def _spawned(rank: int, request: Request, run: RunConfig, device: torch.device, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(request.processes),
    }
    try:
        code = _train_process(rank, request, run, device, request.processes)
    except NnsslError as error:
        if request.debug:
            raise
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201  the parent only sees an exit code
        code = USER_ERROR
    sys.exit(code)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])


def _setting(run: RunConfig, key: str) -> Any:
    """A run's setting, an option of its method, or (`spark.mask_ratio`) of a part of it."""
    part, _, rest = key.partition(".")
    value = run.options.get(part, getattr(run, part, None))
    return value.get(rest) if rest and isinstance(value, Mapping) else value


def _same_run(asked: RunConfig, saved: RunConfig, request: Request) -> None:
    """A continued run keeps its settings; say so when the command line asks for others."""
    given = {k for k, v in request.flags.items() if v is not None} | {s.partition("=")[0].strip() for s in request.sets}
    if request.config_file is not None:
        given |= {k for k in type(asked).model_fields if getattr(asked, k) != type(asked).model_fields[k].default}
        given |= set(asked.options)
    for key in sorted(given):
        wanted, kept = (_setting(r, key) for r in (asked, saved))
        if key == "executor" and wanted == "auto":
            continue  # it was settled when the run began
        if key not in ("method", "options") and wanted != kept:
            raise NnsslError(
                f"--c continues the run with its own settings: {key} is {kept} there, not {wanted}. "
                "Leave it out, or start another run with --name"
            )
