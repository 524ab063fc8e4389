"""The pretraining trainer: nnU-Net's folders and life cycle, one loop for all methods.

A step is: read a crop batch, make views, forward, backward, optimiser, momentum. Everything random in a step follows
from (seed, step), so a run can be stopped anywhere and goes on bit for bit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnssl.trainers import checkpoint as checkpoints
from nnssl.trainers.building import Ancestor, assign_ranks, build_method, check_reading, crop_batch, describe_run
from nnssl.trainers.empty_crops import empty_advice, empty_share, intensity_scales
from nnssl.trainers.executor import settle_executor
from nnssl.trainers.export import export_rehearsal, export_run, write_snapshot
from nnssl.trainers.monitor import Monitor
from nnssl.trainers.optimisers import make_optimizer, parameter_groups, set_lr
from nnssl.trainers.pools import read_run_pools, write_thinning
from nnssl.trainers.precision import autocast, loss_scaler, settle_precision
from nnssl.trainers.preview import save_preview
from nnssl.trainers.run_config import RunConfig, restored_run_config
from nnssl.trainers.schedule import warmup_then
from nnssl.trainers.stopping import Stopped, StopRequest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import distributed as dist

from nnssl.data.cpus import usable_cpus
from nnssl.data.loader import CropDataset, crop_loader, rank_share
from nnssl.data.pool import Pool
from nnssl.data.sampling import TRAINING, VALIDATION, CropSampler
from nnssl.errors import NnsslError
from nnssl.files import write_json
from nnssl.methods import CropBatch, Method, Views, get_method
from nnssl.transfer import torch_files

LATEST, FINAL = "checkpoint_latest.pth", "checkpoint_final.pth"
SAVE_SECONDS = 600.0


class nnsslTrainer(nnUNetTrainer):
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
        self._continuing = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type != "cuda":  # nnU-Net takes a GPU for granted once processes are distributed
            self.device = device
        elif self.is_ddp:  # and one node: on several, a rank is not the number of a GPU
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or self.local_rank))
        self.run = restored_run_config(run) if run else RunConfig(method=self.method_name)
        self.state = checkpoints.RunState()
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
        if self.run.batch_size < self.world_size:
            raise NnsslError(f"batch size {self.run.batch_size} cannot be split over {self.world_size} processes")
        self.precision = settle_precision(self.run.precision, self.device)
        self.grad_scaler = loss_scaler(self.precision, self.device)
        self.pools = read_run_pools(self)
        self.train_pool, self.val_pool = self.pools.training, self.pools.validation
        self.method, self.ancestor = self._build_method()
        check_reading(self.method, self.train_pool)
        assign_ranks(self.method, self.run.batch_size, self.local_rank, self.world_size)
        self.method.to(self.device)
        self.executor_lines = settle_executor(self)
        scales = intensity_scales(self.plans_manager.plans, self.configuration_manager.configuration)
        self._scales_C = torch.tensor(scales, device=self.device)
        self.network: Any = self.method
        if self._do_i_compile():
            self.network = torch.compile(self.method)
        if self.is_ddp:
            ids = [self.device] if self.device.type == "cuda" else None
            if self.device.type == "cuda":  # torch has none for a CPU; heads see all processes' rows anyway
                self.method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.method)
            self.network = torch.nn.parallel.DistributedDataParallel(self.method, device_ids=ids)
        self.optimizer = make_optimizer(
            self.run.optimizer,  # type: ignore[arg-type]
            parameter_groups(self.method.named_parameters(), self.run.weight_decay or 0.0),
            self.run.lr,  # type: ignore[arg-type]
            fused=self.device.type == "cuda",
            momentum=self.run.momentum,  # type: ignore[arg-type]
        )
        self.was_initialized = True

    def _build_method(self) -> tuple[Method, Ancestor | None]:
        init = Path(self.run.init) if self.run.init else None
        if init is not None and self._continuing and not init.is_file():
            init = None  # the checkpoint holds all that came of it
        return build_method(self.run, self.configuration_manager.configuration, self.num_input_channels, init)

    def _loader(self, pool: Pool, stream: int, steps: range, workers: int) -> Iterator[CropBatch]:
        size = self.method.read_size()
        two_d = len(size) == 2
        sampler = CropSampler(pool, [1, *size] if two_d else size, self.run.seed, stream, self.run.body_share)
        batch_size = self.run.batch_size or 1
        share = rank_share(batch_size, self.local_rank, self.world_size)
        dataset = CropDataset(pool, sampler, batch_size, share, two_d, self.method.wants_partner)
        for item in crop_loader(dataset, steps, workers, pin=self.device.type == "cuda"):
            yield crop_batch(item).to(self.device)

    def _workers(self) -> int:
        if self.run.workers is not None:
            return self.run.workers
        return max(1, min(8, usable_cpus() // self.world_size - 1))

    # ---------------------------------------------------------------- the loop

    def run_training(self) -> None:
        """Train from where the run stands to its end, then export. Leaves with Stopped when a signal asks for it."""
        self.on_train_start()
        total = self.num_epochs * self.num_iterations_per_epoch
        done = self.state.epoch * self.num_iterations_per_epoch + self.state.step
        monitor = Monitor(Path(self.output_folder), total, done, self.run.batch_size or 1, self.local_rank == 0)
        batches = self._loader(self.train_pool, TRAINING, range(done, total), self._workers())
        self._last_save = time.monotonic()
        write_snapshot(self)
        with StopRequest() as stop:
            try:
                while self.state.epoch < self.num_epochs:
                    self._train_epoch(batches, monitor, stop)
                    self._finish_epoch(monitor)
            finally:
                monitor.close()
                batches.close()  # type: ignore[attr-defined]  # ends the reading processes
        self.on_train_end()

    def _train_epoch(self, batches: Iterator[CropBatch], monitor: Monitor, stop: StopRequest) -> None:
        self.method.train()
        while self.state.step < self.num_iterations_per_epoch:
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            self._step(batch)
            monitor.step(waited)
            write_snapshot(self)
            if self._stop_agreed(stop):
                self._leave(stop)

    def _step(self, batch: CropBatch) -> None:
        """One optimiser step. No host synchronisation: losses are summed up on the device."""
        step = self.state.epoch * self.num_iterations_per_epoch + self.state.step
        total = self.num_epochs * self.num_iterations_per_epoch
        run = self.run
        set_lr(self.optimizer, run.lr * warmup_then(run.schedule, step, total, run.warmup))  # type: ignore
        # 1. views
        views = self._views(batch, TRAINING, step)
        # 2. forward and backward
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            losses = self.network(views)
        loss = losses.total if self.grad_scaler is None else self.grad_scaler.scale(losses.total)
        loss.backward()
        # 3. optimiser, then what the method moves by itself (teacher, queue)
        self._optimiser_step()
        self.method.after_step((step + 1) / total)
        empty = empty_share(batch, self._scales_C)
        for name, value in {"train_loss": losses.total.detach(), **losses.terms, "empty_crops": empty}.items():
            self.state.sums[name] = self.state.sums.get(name, 0) + value.float()
        self.state.step += 1

    def _views(self, batch: CropBatch, stream: int, step: int) -> Views:
        """Views of a batch; their generator, and torch's own for dropout in the network, follow from the step."""
        words = np.random.SeedSequence((self.run.seed, stream, step, self.local_rank)).generate_state(2, np.uint64)
        torch.manual_seed(int(words[0] >> np.uint64(1)))
        generator = torch.Generator().manual_seed(int(words[1] >> np.uint64(1)))
        with torch.no_grad():
            return self.method.views(batch, generator)

    def _optimiser_step(self) -> None:
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, self.run.clip)  # type: ignore[arg-type]
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _autocast(self) -> Any:
        return autocast(self.precision, self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses over the same crops, views and masks every time."""
        self.method.eval()
        sums: dict[str, torch.Tensor] = {}
        steps = range(self.run.val_iterations)
        for step, batch in zip(steps, self._loader(self.val_pool, VALIDATION, steps, workers=0)):
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

    # ---------------------------------------------------------------- epochs, saving, leaving

    def _finish_epoch(self, monitor: Monitor) -> None:
        rates = monitor.rates()
        row: dict[str, Any] = {
            "epoch": self.state.epoch,
            "steps": (self.state.epoch + 1) * self.num_iterations_per_epoch,
            **self._means(self.state.sums, self.num_iterations_per_epoch),
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.validate(),
            **self.method.diagnostics(),
            **rates,
            "seconds": monitor.seconds(),
        }
        if not math.isfinite(row["train_loss"]):
            raise NnsslError(
                f"the loss is no longer finite in epoch {self.state.epoch + 1}: lower the learning rate (--lr, now "
                f"{self.run.lr:g}) and continue with --c from the last checkpoint, or start again"
            )
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
        if not last and (due or self.state.epoch == 1):
            self.save_checkpoint(str(Path(self.output_folder) / LATEST))
            self.save_preview(Path(self.output_folder) / "preview.png")

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint, atomically, on the first rank."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            content = checkpoints.pack(
                self.state, self.run.model_dump(), self.method, self.optimizer, self.grad_scaler, self.train_pool
            )
            content["init"] = self.ancestor.record if self.ancestor else None
            torch_files.save(content, filename)
        self._last_save = time.monotonic()

    def load_checkpoint(self, filename_or_checkpoint: str | dict) -> None:
        """Go on from a checkpoint; its settings are the run's, whatever this trainer was made with."""
        where = str(filename_or_checkpoint) if isinstance(filename_or_checkpoint, str) else "checkpoint"
        content = torch_files.load(where) if isinstance(filename_or_checkpoint, str) else filename_or_checkpoint
        checkpoints.check_format(content, where)
        if not self.was_initialized:
            self.run = restored_run_config(content["config"])
            self.initialize()
        self.state = checkpoints.restore(
            content, self.method, self.optimizer, self.grad_scaler, self.train_pool, self.device
        )
        self.current_epoch = self.state.epoch
        self.ancestor = Ancestor(content["init"]) if content.get("init") else None
        self.resumed = True
        self.print_to_log_file(f"continuing in epoch {self.state.epoch + 1} after step {self.state.step} ({where})")

    def _stop_agreed(self, stop: StopRequest) -> bool:
        """Whether to leave now; ranks ask each other every 16 steps because a signal may reach only one of them."""
        if not self.is_ddp:
            return bool(stop)
        if self.state.step % 16 and self.state.step < self.num_iterations_per_epoch:
            return False
        flag = torch.tensor(float(stop.signal_number or 0), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        stop.signal_number = int(flag.item()) or None
        return bool(stop)

    def _leave(self, stop: StopRequest) -> None:
        self.save_checkpoint(str(Path(self.output_folder) / LATEST))
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
        folder = Path(self.output_folder)
        if not self.resumed and any((folder / name).exists() for name in (LATEST, FINAL)):
            raise NnsslError(
                f"{folder} already holds a run: continue it with --c; nnssl_pretrain also knows --name, to tell runs apart, "
                "and --overwrite"
            )
        if self.run.init and self.ancestor is None:
            raise NnsslError(f"--init {self.run.init} is gone and there is no checkpoint to continue from")
        if self.local_rank == 0:
            export_rehearsal(self)
            base = Path(self.output_folder_base)
            save_json(self.plans_manager.plans, str(base / "plans.json"), sort_keys=False)
            save_json(self.dataset_json, str(base / "dataset.json"), sort_keys=False)
            write_json(describe_run(self), folder / "config.json")
            write_thinning(self)
        cls = get_method(self.run.method)
        self.print_to_log_file(f"please also cite for {self.run.method}: {cls.citation}")
        self.print_to_log_file(
            f"{len(self.train_pool)} training cases, {len(self.val_pool)} validation cases"
            + (" (the same: fold all)" if self.fold == "all" else "")
        )
        for line in [*self.pools.lines, *self.executor_lines]:
            self.print_to_log_file(line, add_timestamp=False)
        if self.ancestor is not None and not self.resumed:
            self.print_to_log_file(f"starting from {self.run.init}:")
            for line in self.ancestor.lines:
                self.print_to_log_file(line, add_timestamp=False)
        for line in self.method.advice(len(self.train_pool), self.run.batch_size or 1):
            self.print_to_log_file(f"WARNING: {line}")
        self.print_to_log_file(f"settings: {self.run.model_dump()}")

    def on_train_end(self) -> None:
        """Final checkpoint, pictures, encoder.pth and nnunet_init.pth."""
        folder = Path(self.output_folder)
        self.save_checkpoint(str(folder / FINAL))
        if self.local_rank == 0:
            self.save_preview(folder / "preview.png")
            if not self.disable_checkpointing:
                for line in export_run(self):
                    self.print_to_log_file(line, add_timestamp=False)
                (folder / LATEST).unlink(missing_ok=True)
        self.print_to_log_file("pretraining done")

    @torch.no_grad()
    def save_preview(self, path: Path, stream: int = VALIDATION) -> None:
        """Pictures of the first batch: of the validation, or, with augmentation, of the training."""
        if self.local_rank != 0:
            return
        self.method.train(stream == TRAINING)
        pool = self.train_pool if stream == TRAINING else self.val_pool
        for batch in self._loader(pool, stream, range(1), workers=0):
            with self._autocast():
                pictures = self.method.preview(self._views(batch, stream, 0))
            where = f"{self.plans_manager.dataset_name}, {self.configuration_name}"
            title = f"{self.run.method}, {where}, epoch {self.state.epoch}"
            save_preview(path, pictures, batch, title)
        self.method.train()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net calls this last; there is nothing to segment, so the loss on the fixed crops is printed."""
        means = self.validate()
        self.print_to_log_file("validation: " + ", ".join(f"{k} {v:.5f}" for k, v in means.items()))
