"""From a command line to running trainers: one process, several on this node, or one of many under torchrun."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from nnssl.trainers.building import refuse_empty_shares
from nnssl.trainers.methods import trainer_for
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.trainers.process_group import PATIENCE_SECONDS, Place, agree, by_the_first, joined
from nnssl.trainers.processes import run_processes
from nnssl.trainers.relaunch import Launch, queued_again, refuse_an_empty_disk, this_launch
from nnssl.trainers.run_config import RunConfig, make_run_config, restored_run_config
from nnssl.trainers.saving import checkpoint_to_continue, has_run, saved_config
from nnssl.trainers.start import clear_run, refuse_to_overwrite, wait_for_predecessor

from nnssl.data.cpus import usable_cpus
from nnssl.data.folders import check_configuration, nnunet_folder, read_dataset_json, read_plans, resolve_dataset
from nnssl.errors import MissingError, NnsslError
from nnssl.transfer.provenance import package_versions


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
    patience: float = PATIENCE_SECONDS
    resume: bool = False
    overwrite: bool = False
    debug: bool = False


log = logging.getLogger(__name__)

_FREE = {"on_collapse", "workers", "cache", "readahead", "checkpointing"}
"""Settings that may differ from those a run began with: none changes the numbers that a step computes."""

Job: TypeAlias = Callable[[Request, RunConfig, torch.device, int], int]
"""What one process does with a request: its settings, the device, and how many processes share this machine."""


def launch(request: Request, job: Job | None = None) -> int:
    """Check the request, then run it; returns the exit code.

    Args:
        request: what was asked for.
        job: what every process does; None = train. Can be pickled.

    Raises:
        NnsslError: anything that can be known to be wrong before the training begins.
        LostContact: one of several processes died.
    """
    job = job or train
    if request.resume and request.overwrite:
        raise NnsslError("--c continues a run and --overwrite throws it away: choose one")
    place = Place.from_environment()
    if place is not None and request.processes > 1:
        raise NnsslError("torchrun starts the processes: leave -num_gpus out")
    device = pick_device(request.device)
    if place is not None:
        place.check(device)
        return _one_of_several(request, None, device, job)
    Place(0, request.processes, 0, request.processes).check(device)
    run = prepare(request, request.processes)
    if request.processes == 1:
        return job(request, run, device, 1)
    work = partial(_one_of_several, request, run, device, job)
    return run_processes(work, request.processes, request.debug)


def prepare(request: Request, world: int = 1, again: bool = False) -> RunConfig:
    """Settings of a run in `world` processes, after every check that needs no network.

    Args:
        request: what was asked for.
        world: number of processes.
        again: these processes, or this job, were started before.
    """
    run = _placed(make_run_config(request.method, request.flags, request.config_file, request.sets))
    folder = run_folder(request)
    saved = saved_config(folder) if request.resume else None
    if saved is not None:
        run = _continued(run, restored_run_config(saved), request)
    elif request.resume and (again or queued_again()):
        refuse_an_empty_disk(folder)
    refuse_empty_shares(run.batch_size, world)
    if request.overwrite:
        wait_for_predecessor(folder)
    elif not request.resume:
        refuse_to_overwrite(folder)
    return run


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
    check_configuration(read_plans(name, request.plans), request.configuration, request.plans, name)
    trainer = trainer_for(request.method, request.name).__name__
    results = _results_to_continue() if request.resume else nnunet_folder("nnUNet_results", create=True)
    return results / name / f"{trainer}__{request.plans}__{request.configuration}" / f"fold_{fold_of(request.fold)}"


def _results_to_continue() -> Path:
    """nnUNet_results as `--c` needs it: there. Made anew where a disk is not mounted, a run would begin from zero in it."""
    try:
        return nnunet_folder("nnUNet_results")
    except MissingError as error:
        told = os.environ.get("nnUNet_results")
        hint = " --c makes no new one: mount its disk, or make the folder if no run has begun yet" if told else ""
        raise MissingError(f"{error}.{hint}") from error


def fold_of(text: str) -> str | int:
    """`all` or a number."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise NnsslError(f"-f {text}: give 'all' or a fold number (0-4)")
    return int(text)


def pick_device(wanted: str | None) -> torch.device:
    """The wanted device, or the best there is; checks that it exists."""
    if wanted is None:
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise NnsslError(
            "-device cuda: torch finds no usable GPU here; use -device cpu, or check driver and torch build"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise NnsslError("-device mps: this machine has no usable Apple GPU; use -device cpu")
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


def train(request: Request, run: RunConfig, device: torch.device, processes: int) -> int:
    """Train from the beginning or from the last checkpoint; `processes` share this machine."""
    limit_threads(device, processes)
    trainer = make_trainer(request, run, device)
    try:
        if request.resume:
            by_the_first(lambda: wait_for_predecessor(Path(trainer.output_folder)))
        agree({"plans": _digest(trainer.plans_manager.plans)}, "Is nnUNet_preprocessed the same folder for all?")
        trainer.initialize()
    except NnsslError:
        _leave_no_trace(trainer)
        raise
    started_by = this_launch()
    by_the_first(lambda: _take_folder(trainer, request, started_by))
    if request.resume:
        found = by_the_first(lambda: checkpoint_to_continue(Path(trainer.output_folder), trainer.print_to_log_file))
        if found:
            trainer.load_checkpoint(str(found))
    done = {"pool": trainer.train_pool.signature, "epoch": trainer.state.epoch, "step": trainer.state.step}
    agree(done, "Are nnUNet_preprocessed and nnUNet_results the same folders for all?")
    trainer.run_training()
    return 0


def _take_folder(trainer: nnsslTrainer, request: Request, started_by: Launch | None) -> None:
    """Clear the run's folder if so asked, and say there who trains in it now.

    Not before pools and network are there: settings that they refuse must not cost the old run.
    """
    if request.overwrite:
        clear_run(Path(trainer.output_folder), Path(trainer.log_file))
    if started_by is not None:
        started_by.write(Path(trainer.output_folder))


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _leave_no_trace(trainer: nnsslTrainer) -> None:
    """Remove what nnU-Net's constructor made, if the run never began: a log, and a folder that holds nothing else."""
    if trainer.local_rank != 0:
        return
    folder = Path(trainer.output_folder)
    Path(trainer.log_file).unlink(missing_ok=True)
    if all(p.name.startswith("training_log") for p in folder.iterdir()):
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other folds live beside it
            folder.parent.rmdir()


def _one_of_several(request: Request, run: RunConfig | None, device: torch.device, job: Job) -> int:
    """A process of several, as the environment says; without settings the first process makes them for all."""
    place = Place.from_environment()
    assert place is not None  # or this were not one of several
    if device.type == "cuda":
        torch.cuda.set_device(place.local_rank)
    with joined(place, device, request.patience):
        agree({"versions": package_versions()}, "Install the same on all machines")
        asked = asdict(replace(request, flags={}, resume=False, overwrite=False)) | dict(request.flags)
        agree({k: str(v) for k, v in asked.items()}, "Start all processes with the same command")
        if run is None:
            started_by = this_launch()
            resume, settings = by_the_first(lambda: _prepared_by_the_first(request, place, started_by))
            run = restored_run_config(settings)
            request = replace(request, resume=resume, overwrite=request.overwrite and not resume)
        return job(request, run, device, place.local_world)


def _prepared_by_the_first(request: Request, place: Place, started_by: Launch | None) -> tuple[bool, dict[str, Any]]:
    """Whether the run goes on, and its settings, as the first process finds them.

    What this torchrun has begun goes on, whatever the command says: `--overwrite` was done then.
    """
    again = started_by is not None and _has_begun(started_by, request)
    if again and not request.resume:
        log.info("torchrun has started this run before: it goes on from its last checkpoint")
        request = replace(request, resume=True, overwrite=False)
    return request.resume, prepare(request, place.world, again).model_dump()


def _has_begun(started_by: Launch, request: Request) -> bool:
    """Whether the run in the request's folder was begun by this torchrun; after a restart also where there is none.

    Then either the processes died before it began, or its disk is gone: what is there decides, see `refuse_an_empty_disk`.
    A run of somebody else's is still to be refused, or to be overwritten.
    """
    try:
        folder = run_folder(replace(request, resume=True))  # this makes no nnUNet_results
    except MissingError:
        return started_by.restarts > 0
    return started_by.goes_on(folder) or (started_by.restarts > 0 and not has_run(folder))


def _setting(run: RunConfig, key: str) -> Any:
    """A run's setting, an option of its method, or (`spark.mask_ratio`) of a part of it."""
    part, _, rest = key.partition(".")
    value = run.options.get(part, getattr(run, part, None))
    return value.get(rest) if rest and isinstance(value, Mapping) else value


def _given(request: Request, asked: RunConfig) -> set[str]:
    """Names of the settings that the command line or the file of settings has."""
    given = {k for k, v in request.flags.items() if v is not None} | {s.partition("=")[0].strip() for s in request.sets}
    if request.config_file is not None:
        given |= {k for k in type(asked).model_fields if getattr(asked, k) != type(asked).model_fields[k].default}
        given |= set(asked.options)
    return given


def _continued(asked: RunConfig, saved: RunConfig, request: Request) -> RunConfig:
    """A continued run keeps its settings, but for the free ones; say so when the command line asks for others."""
    for key in sorted(_given(request, asked) - _FREE):
        wanted, kept = (_setting(r, key) for r in (asked, saved))
        if key == "executor" and wanted == "auto":
            continue  # it was settled when the run began
        if key not in ("method", "options") and wanted != kept:
            raise NnsslError(
                f"--c continues the run with its own settings: {key} is {kept} there, not {wanted}. "
                "Leave it out, or start another run with --name"
            )
    return saved.model_copy(update={k: getattr(asked, k) for k in _FREE & _given(request, asked)})
