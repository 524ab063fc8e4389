"""The pretraining trainer: nnU-Net's folders and life cycle, one loop for all methods.

A step is: read a crop batch, make views, forward, backward, optimiser, momentum. Everything random in a step follows
from (seed, step), so a run can be stopped anywhere and goes on bit for bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnssl.trainers.building import (
    Ancestor,
    assign_ranks,
    build_method,
    check_reading,
    crop_batch,
    refuse_empty_shares,
)
from nnssl.trainers.checkpoint import FINAL, LATEST, RunState
from nnssl.trainers.device import prepare_device
from nnssl.trainers.empty_crops import empty_advice, intensity_scales
from nnssl.trainers.export import export_safely, write_snapshot
from nnssl.trainers.log_file import LogFile
from nnssl.trainers.monitor import Monitor
from nnssl.trainers.network import prepare_network
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.pools import read_run_pools
from nnssl.trainers.precision import loss_scaler, settle_precision
from nnssl.trainers.preview import save_preview
from nnssl.trainers.process_group import LaggingVote, processes_here
from nnssl.trainers.readers import readers_watched
from nnssl.trainers.recovery import check_health, check_numbers, first_content, roll_back
from nnssl.trainers.resumable import Resumable
from nnssl.trainers.run_config import RunConfig, restored_run_config
from nnssl.trainers.run_lock import RunLock
from nnssl.trainers.saving import Keeper, has_run, remove_finished, sweep, tolerated
from nnssl.trainers.start import announce, check_beginning, write_down
from nnssl.trainers.step import SKIPPED, TrainingStep
from nnssl.trainers.stopping import Stopped, StopRequest
from nnssl.trainers.trouble import RollBack, StepGuard, Trouble
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import distributed as dist

from nnssl.data.cache import CaseCache, make_cache
from nnssl.data.checksums import FirstReads
from nnssl.data.cpus import default_readers
from nnssl.data.loader import CropDataset, EpochsDataset, NumberedBatches, crop_loader, rank_share
from nnssl.data.pool import Pool
from nnssl.data.sampling import TRAINING, VALIDATION, CropSampler
from nnssl.methods import CropBatch, Method

SAVE_SECONDS = 600.0


class nnsslTrainer(LogFile, Resumable, TrainingStep, nnUNetTrainer):
    """Base of all pretraining trainers; subclasses only set `method_name`.

    nnU-Net's constructor allows no further arguments and hands `continue_training` over inside the plans; a run's
    settings come the same way, as `plans["nnssl_run"]` (a RunConfig as a dict), and are taken out again here.
    """

    method_name: ClassVar[str] = "masked_region"

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int | str,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        run = plans.pop("nnssl_run", None)
        continuing = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._continuing = continuing and has_run(Path(self.output_folder))
        if device.type != "cuda":  # nnU-Net takes a GPU for granted once processes are distributed
            self.device = device
        elif self.is_ddp:  # and one node: on several, a rank is not the number of a GPU
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or self.local_rank))
        self.run = restored_run_config(run) if run else RunConfig(method=self.method_name)
        self.state = RunState()
        self.stop = StopRequest()
        self.keeper = Keeper(Path(self.output_folder), self.print_to_log_file, lambda: bool(self.stop))
        self.first: dict[str, Any] | None = None
        self.was_initialized = False
        self.resumed = False

    # ---------------------------------------------------------------- building

    def initialize(self) -> None:
        """Build the pool, the method and the optimiser from the plans and the run's settings."""
        if self.was_initialized:
            raise RuntimeError("the trainer is initialized already")
        self.run = self.run.resolved(
            self.configuration_manager.batch_size,
            next(iter(self.configuration_manager.network_arch_init_kwargs.get("features_per_stage", ())), None),
        )
        self.num_epochs, self.num_iterations_per_epoch = self.run.epochs, self.run.iterations
        self.num_input_channels = determine_num_input_channels(
            self.plans_manager, self.configuration_manager, self.dataset_json
        )
        self.world_size = dist.get_world_size() if self.is_ddp else 1
        assert self.run.batch_size is not None  # resolved
        refuse_empty_shares(self.run.batch_size, self.world_size)
        self.precision = settle_precision(self.run.precision, self.device)
        prepare_device(self.device)
        self.grad_scaler = loss_scaler(self.precision, self.device)
        self.pools = read_run_pools(self)
        self.train_pool, self.val_pool = self.pools.training, self.pools.validation
        self.first_reads = FirstReads(self.train_pool, self.val_pool)
        self.method, self.ancestor = self._build_method()
        check_reading(self.method, self.train_pool)
        assign_ranks(self.method, self.run.batch_size, self.local_rank, self.world_size)
        self.method.to(self.device)
        scales = intensity_scales(self.plans_manager.plans, self.configuration_manager.configuration)
        self._scales_C = torch.tensor(scales, device=self.device)
        self.network_lines = prepare_network(self)
        self.cache, cache_lines = self._make_cache()
        self.network_lines += cache_lines
        if self.is_ddp:
            self._signal_vote = LaggingVote(self.device)
        self.optimizer = make_optimizer(
            self.run.optimizer,  # type: ignore[arg-type]
            parameter_groups(self.method.named_parameters(), self.run.weight_decay or 0.0),
            self.run.lr,  # type: ignore[arg-type]
            fused=self.device.type == "cuda",
            momentum=self.run.momentum,  # type: ignore[arg-type]
        )
        self.guard = StepGuard(self.method, self.optimizer)
        self.state.trouble = Trouble(self.device)
        self.was_initialized = True

    def _build_method(self) -> tuple[Method, Ancestor | None]:
        init = Path(self.run.init) if self.run.init else None
        if init is not None and self._continuing and not init.is_file():
            init = None  # the checkpoint holds all that came of it
        return build_method(self.run, self.configuration_manager.configuration, self.num_input_channels, init)

    def sampler(self, pool: Pool, stream: int) -> CropSampler:
        """Where the crops of a stream lie."""
        size = self.method.read_size()
        return CropSampler(pool, [1, *size] if len(size) == 2 else size, self.run.seed, stream, self.run.body_share)

    def _make_cache(self) -> tuple[CaseCache | None, list[str]]:
        run, size = self.run, self.method.read_size()
        crops = run.epochs * run.iterations * (run.batch_size or 1)
        here = processes_here(self.world_size)
        return make_cache(run.cache, self.train_pool, self.num_input_channels, size, crops, here)

    def _dataset(self, pool: Pool, stream: int) -> CropDataset:
        two_d = len(self.method.read_size()) == 2
        batch_size = self.run.batch_size or 1
        share = rank_share(batch_size, self.local_rank, self.world_size)
        partners, sampler = self.method.wants_partner, self.sampler(pool, stream)
        return CropDataset(pool, sampler, batch_size, share, two_d, partners, self.cache, self.first_reads)

    def _read(self, dataset: NumberedBatches, numbers: range, workers: int) -> Generator[CropBatch]:
        pin = self.device.type == "cuda"
        for item in crop_loader(dataset, numbers, workers, pin, self.run.readahead):
            yield crop_batch(item).to(self.device)

    def _loader(self, pool: Pool, stream: int, steps: range, workers: int) -> Generator[CropBatch]:
        return self._read(self._dataset(pool, stream), steps, workers)

    def _batches_left(self) -> Generator[CropBatch]:
        """What is left of the run: the batches of an epoch, behind them the validation's, and so on."""
        dataset = EpochsDataset(
            self._dataset(self.train_pool, TRAINING),
            self._dataset(self.val_pool, VALIDATION),
            self.num_iterations_per_epoch,
            self.run.val_iterations,
        )
        numbers = range(dataset.number(self.state.epoch, self.state.step), dataset.number(self.num_epochs, 0))
        return self._read(dataset, numbers, self._workers())

    def _workers(self) -> int:
        if self.run.workers is not None:
            return self.run.workers
        return default_readers(processes_here(self.world_size))

    # ---------------------------------------------------------------- the loop

    def run_training(self) -> None:
        """Train from where the run stands to its end, then export. Leaves with Stopped when a signal asks for it."""
        folder = Path(self.output_folder)
        with RunLock(folder) if self.local_rank == 0 else nullcontext():
            if self.local_rank == 0:
                sweep(folder)
            self.on_train_start()
            self._last_save = time.monotonic()
            with self.stop as stop, readers_watched(self._workers()):
                while self.state.epoch < self.num_epochs:
                    try:
                        self._train(stop)
                    except RollBack as trouble:
                        roll_back(self, trouble)
                self.on_train_end()  # a signal now: the export takes seconds, and is finished

    def _train(self, stop: StopRequest) -> None:
        """The epochs that are left."""
        total = self.num_epochs * self.num_iterations_per_epoch
        done = self.state.epoch * self.num_iterations_per_epoch + self.state.step
        monitor = Monitor(
            Path(self.output_folder),
            total,
            done,
            self.run.batch_size or 1,
            self.local_rank == 0,
            self.print_to_log_file,
        )
        batches = self._batches_left()
        write_snapshot(self)
        try:
            if self.resumed or self.state.rollbacks:
                monitor.begin_with(self.state.history)  # rows of epochs that will be done again are no longer true
            elif not done and self.local_rank == 0:
                self.first = first_content(self)
            while self.state.epoch < self.num_epochs:
                self._train_epoch(batches, monitor, stop)
                self._finish_epoch(batches, monitor)
        finally:
            monitor.close()
            batches.close()  # ends the reading processes

    def _train_epoch(self, batches: Iterator[CropBatch], monitor: Monitor, stop: StopRequest) -> None:
        self.method.train()
        while self.state.step < self.num_iterations_per_epoch:
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            self._step(batch)
            monitor.step(waited)
            write_snapshot(self)
            check_numbers(self)
            if self._stop_agreed(stop):
                self._leave(stop)

    @torch.no_grad()
    def validate(self, batches: Iterator[CropBatch] | None = None) -> dict[str, float]:
        """Mean losses over the same crops, views and masks every time.

        Args:
            batches: where those of the validation come next; None = they are read here.
        """
        self.method.eval()
        sums: dict[str, torch.Tensor] = {}
        steps = range(self.run.val_iterations)
        for step, batch in zip(steps, batches or self._loader(self.val_pool, VALIDATION, steps, workers=0)):
            with self._autocast():
                losses = self.method(self._views(batch, VALIDATION, step))
            for name, value in {"loss": losses.total, **losses.terms}.items():
                sums[f"val_{name}"] = sums.get(f"val_{name}", 0) + value.float()
        self.method.train()
        return self._means(sums, self.run.val_iterations)

    def _means(self, sums: dict[str, torch.Tensor], count: int) -> dict[str, float]:
        values = torch.stack([sums[k].detach() for k in sums]) / count
        if self.is_ddp:
            dist.all_reduce(values)
            values /= self.world_size
        return dict(zip(sums, values.tolist()))

    def _shared_sums(self) -> dict[str, torch.Tensor]:
        """The unfinished epoch's sums, averaged over the ranks: a checkpoint may be continued by any number of them."""
        means = self._means(self.state.sums, 1) if self.state.sums else {}
        return {name: torch.tensor(value, device=self.device) for name, value in means.items()}

    # ---------------------------------------------------------------- epochs, saving, leaving

    def _finish_epoch(self, batches: Iterator[CropBatch], monitor: Monitor) -> None:
        rates = monitor.rates()
        skipped = round(float(self.state.sums.pop(SKIPPED, torch.zeros(()))))
        means = self._means(self.state.sums, self.num_iterations_per_epoch - skipped)
        validation = self.validate(monitor.validation(batches))
        rates |= monitor.validation_rates()
        row: dict[str, Any] = {
            "epoch": self.state.epoch,
            "steps": (self.state.epoch + 1) * self.num_iterations_per_epoch,
            **means,
            SKIPPED: skipped,
            "lr": self.optimizer.param_groups[0]["lr"],
            **validation,
            **self.method.diagnostics(),
            **rates,
            "seconds": monitor.seconds(),
        }
        self.state.history.append(row)
        self.state.epoch, self.state.step, self.state.sums = self.state.epoch + 1, 0, {}
        line = monitor.epoch(row, self.state.history, self.num_epochs)
        self.print_to_log_file(line, also_print_to_console=False)
        for logger in self.logger.loggers:
            for key, value in row.items():
                logger.log(key, value, row["epoch"])
        for trouble in [*self.method.health(row), *empty_advice(row, self.run.body_share)]:
            self.print_to_log_file(f"WARNING: {trouble}")
        last = self.state.epoch == self.num_epochs
        due = self.state.epoch % self.run.save_every == 0 or time.monotonic() - self._last_save > SAVE_SECONDS
        if not last and (due or self.state.epoch == 1 or self.keeper.failures):
            self.save_checkpoint(str(Path(self.output_folder) / LATEST), must=False)
            self.save_preview(Path(self.output_folder) / "preview.png")
        if not last:
            check_health(self)

    def _stop_agreed(self, stop: StopRequest) -> bool:
        """Whether to leave now. A signal may reach one rank only, so all go by what was told after the step before."""
        if not self.is_ddp:
            return bool(stop)
        agreed = self._signal_vote(stop.signal_number or 0)
        stop.signal_number = agreed or stop.signal_number
        return agreed > 0

    def _leave(self, stop: StopRequest) -> None:
        if self.is_ddp:
            self._signal_vote.last()
            self.state.sums = self._shared_sums()
        self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        if self.is_ddp:
            self._signal_vote.meet()
        self.print_to_log_file(
            f"stopped on request (signal {stop.signal_number}) in epoch {self.state.epoch + 1}, step {self.state.step}; "
            "saved. Continue with --c"
        )
        raise Stopped(stop.signal_number or 0)

    # ---------------------------------------------------------------- start and end

    def on_train_start(self) -> None:
        """Refuse to overwrite a run, rehearse the export, write down what is about to happen."""
        if not self.was_initialized:
            self.initialize()
        check_beginning(self)
        write_down(self)
        announce(self)

    def on_train_end(self) -> None:
        """Final checkpoint, pictures, encoder.pth and nnunet_init.pth."""
        folder = Path(self.output_folder)
        if self.is_ddp:
            self._signal_vote.last()  # too late to stop
        if not (folder / FINAL).is_file():  # else this process only repeats an export
            self.save_checkpoint(str(folder / FINAL))
        if self.local_rank == 0:
            self.save_preview(folder / "preview.png")
            if not self.disable_checkpointing:
                for line in export_safely(self):
                    self.print_to_log_file(line, add_timestamp=False)
                remove_finished(folder)
        if self.is_ddp:
            self._signal_vote.meet()
        self.print_to_log_file("pretraining done")

    @torch.no_grad()
    def save_preview(self, path: Path, stream: int = VALIDATION) -> None:
        """Pictures of the first batch: of the validation, or, with augmentation, of the training."""
        if self.local_rank != 0:
            return
        self.method.train(stream == TRAINING)
        pool = self.train_pool if stream == TRAINING else self.val_pool
        for batch in self._loader(pool, stream, range(1), workers=0):
            views = self._views(batch, stream, 0)
            self.method.eval()  # in training, batch norms would wait for the other processes, which draw nothing
            with self._autocast():
                pictures = self.method.preview(views)
            where = f"{self.plans_manager.dataset_name}, {self.configuration_name}"
            title = f"{self.run.method}, {where}, epoch {self.state.epoch}"
            draw = partial(save_preview, path, pictures, batch, title)
            if path.parent == Path(self.output_folder):
                tolerated(partial(draw, make_folder=False), path, self.print_to_log_file)
            else:  # a dry run's, which is all that it was asked for
                draw()
        self.method.train()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net calls this last; there is nothing to segment, so the loss on the fixed crops is printed."""
        means = self.validate()
        self.print_to_log_file("validation: " + ", ".join(f"{k} {v:.5f}" for k, v in means.items()))
