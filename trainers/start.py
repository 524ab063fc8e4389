"""What happens before a run's first step: its folder is its own, its export is rehearsed, and it says what it is."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from batchgenerators.utilities.file_and_folder_operations import save_json
from nnssl.trainers.building import describe_run
from nnssl.trainers.export import export_rehearsal
from nnssl.trainers.pools import write_thinning
from nnssl.trainers.process_group import by_the_first
from nnssl.trainers.rotation import settle
from nnssl.trainers.run_lock import PATIENCE, RunLock
from nnssl.trainers.saving import ORDER

from nnssl.errors import NnsslError
from nnssl.files import atomic_path, write_json
from nnssl.methods import get_method

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer


def refuse_to_overwrite(folder: Path) -> None:
    """A new run does not go into the folder of another.

    Raises:
        NnsslError: there is one.
    """
    if any((folder / name).exists() for name in ORDER):
        raise NnsslError(
            f"{folder} already holds a run: continue it with --c, or (nnssl_pretrain) throw it away with --overwrite, or "
            "tell the new one apart with --name"
        )


def clear_run(folder: Path, but: Path | None = None, patience: float = PATIENCE) -> None:
    """Throw a run away (`--overwrite`), unless a process is still training in its folder.

    Args:
        folder: of the run; it need not be there.
        but: a file in it that stays.
        patience: seconds to wait for that process to end.

    Raises:
        NnsslError: it has not.
    """
    if not folder.is_dir():
        return
    with RunLock(folder, patience) as lock:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path not in (lock.path, but):  # NFS keeps an open file, and with it the folder
                path.unlink()
    with contextlib.suppress(OSError):  # somebody has begun a run there at this moment
        folder.rmdir()


def wait_for_predecessor(folder: Path, patience: float = PATIENCE) -> None:
    """Let a process that still trains in the folder end: it saves before it leaves, and that is what `--c` must read.

    Where it was killed while a checkpoint took the place of another, that is brought to its end.

    Args:
        folder: of the run; it need not be there.
        patience: seconds to wait.

    Raises:
        NnsslError: it has not ended.
    """
    if folder.is_dir():
        with RunLock(folder, patience), contextlib.suppress(OSError):  # reading will say what the disk says
            settle(folder)


def check_beginning(trainer: nnsslTrainer) -> None:
    """A run that is not continued needs a folder of its own, and the encoder that it starts from.

    Raises:
        NnsslError: one of them is not there.
    """
    if not trainer.resumed:
        by_the_first(lambda: refuse_to_overwrite(Path(trainer.output_folder)))
    if trainer.run.init and trainer.ancestor is None:
        raise NnsslError(f"--init {trainer.run.init} is gone and there is no checkpoint to continue from")


def write_down(trainer: nnsslTrainer) -> None:
    """On the first rank: rehearse the export; write plans.json, dataset.json, config.json and what thinning left out.

    Raises:
        NnsslError: on all ranks, before one of them waits on a GPU for the first; the disk is full, for example.
    """
    by_the_first(lambda: _written_down(trainer))


def _written_down(trainer: nnsslTrainer) -> None:
    export_rehearsal(trainer)
    base = Path(trainer.output_folder_base)
    for name, content in (("plans.json", trainer.plans_manager.plans), ("dataset.json", trainer.dataset_json)):
        with atomic_path(base / name) as temporary:
            save_json(content, str(temporary), sort_keys=False)
    write_json(describe_run(trainer), Path(trainer.output_folder) / "config.json")
    write_thinning(trainer)


def announce(trainer: nnsslTrainer) -> None:
    """The first lines of the log."""
    cls = get_method(trainer.run.method)
    trainer.print_to_log_file(f"please also cite for {trainer.run.method}: {cls.citation}")
    trainer.print_to_log_file(
        f"{len(trainer.train_pool)} training cases, {len(trainer.val_pool)} validation cases"
        + (" (the same: fold all)" if trainer.fold == "all" else "")
    )
    for line in [*trainer.pools.lines, *trainer.network_lines]:
        trainer.print_to_log_file(line, add_timestamp=False)
    if trainer.ancestor is not None and not trainer.resumed:
        trainer.print_to_log_file(f"starting from {trainer.run.init}:")
        for line in trainer.ancestor.lines:
            trainer.print_to_log_file(line, add_timestamp=False)
    for line in trainer.method.advice(len(trainer.train_pool), trainer.run.batch_size or 1):
        trainer.print_to_log_file(f"WARNING: {line}")
    trainer.print_to_log_file(f"settings: {trainer.run.model_dump()}")
