"""The trainer's checkpoints, written and read back; checkpoint.py has what stands in one, saving.py the way to the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnssl.trainers import checkpoint as checkpoints
from nnssl.trainers.building import Ancestor
from nnssl.trainers.reading_once import read_once
from nnssl.trainers.run_config import RunConfig, restored_run_config
from nnssl.trainers.saving import Keeper, put_damaged_aside, read_checkpoint

from nnssl.data.pool import Pool
from nnssl.methods import Method


class Resumable:
    """The part of the trainer that saves and loads; the trainer's constructor and `initialize` set what is declared here."""

    run: RunConfig
    state: checkpoints.RunState
    method: Method
    optimizer: torch.optim.Optimizer
    grad_scaler: torch.amp.GradScaler | None
    train_pool: Pool
    ancestor: Ancestor | None
    device: torch.device
    output_folder: str
    local_rank: int
    disable_checkpointing: bool
    was_initialized: bool
    resumed: bool
    current_epoch: int
    keeper: Keeper
    first: dict[str, Any] | None
    initialize: Callable[[], None]
    print_to_log_file: Callable[..., None]
    _last_save: float

    def save_checkpoint(self, filename: str, must: bool = True) -> None:
        """Write a checkpoint on the first rank.

        Args:
            filename: where.
            must: False where the run can do without it for now.

        Raises:
            NnsslError: it could not be written, and must be or could not several times.
        """
        if self.local_rank == 0 and not self.disable_checkpointing:
            content = self.checkpoint_content()
            if self.first is not None and not checkpoints.at_fixed_place(content) and not self.keeper.failures:
                # a signal in the first epoch: what a roll-back goes to must be there after --c, too
                self.keeper.save(self.first, Path(filename).with_name(checkpoints.LATEST), must=False)
            written = self.keeper.save(content, Path(filename), must)
            self.first = None if written else self.first
        self._last_save = time.monotonic()

    def checkpoint_content(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        config = self.run.model_dump()
        content = checkpoints.pack(self.state, config, self.method, self.optimizer, self.grad_scaler, self.train_pool)
        return {**content, "init": self.ancestor.record if self.ancestor else None}

    def load_checkpoint(self, filename_or_checkpoint: str | dict) -> None:
        """Go on from a checkpoint; its settings are the run's, whatever this trainer was made with.

        Of several processes all must ask, and the first one reads it.
        """
        if isinstance(filename_or_checkpoint, str):
            path = Path(filename_or_checkpoint)
            content, where = read_once(lambda: self._read_checkpoint(path), self.device)
        else:
            content, where = filename_or_checkpoint, "checkpoint"
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

    def _read_checkpoint(self, path: Path) -> tuple[dict[str, Any], str]:
        content, found = read_checkpoint(path, self.print_to_log_file)
        if found.parent == Path(self.output_folder):
            put_damaged_aside(found, self.print_to_log_file)
        return content, str(found)
