"""What processes do in the tests of several processes; a module of its own because each of them imports it anew."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from nnssl.trainers.process_group import LaggingVote, Place, agree, by_the_first, joined
from torch import distributed as dist

from nnssl.errors import NnsslError

CPU = torch.device("cpu")


def in_group(what: str, patience: float, note: str) -> int:
    """Join the others, then do what the name says on the last process while the first waits in a collective.

    The file `note` is written when that begins.
    """
    place = Place.from_environment()
    assert place is not None
    with joined(place, CPU, patience):
        dist.barrier()
        if place.rank == place.world - 1:
            Path(note).touch()
            _misbehave(what, patience)
        if what == "first cannot write":
            by_the_first(_fill_a_disk)
            raise AssertionError(f"process {place.rank} went on")
        if what == "differ":
            agree({"pool": f"of {place.rank}"}, "Are the folders the same?")
        if what == "error":
            raise NnsslError("all say this")
        dist.all_reduce(torch.ones(1))
    return 0


def _misbehave(what: str, patience: float) -> None:
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hangs":
        time.sleep(20 * patience)
    if what == "one error":
        raise NnsslError("only the last one says this")
    if what == "full disk":
        _fill_a_disk()
    if what == "crash":
        raise ZeroDivisionError("not foreseen")


def _fill_a_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("more than there is room for")


def vote(folder: str) -> int:
    """The signal reaches the last process in its third step; write down after how many steps each one leaves."""
    place = Place.from_environment()
    assert place is not None
    with joined(place, CPU, 60):
        ask = LaggingVote(CPU)
        for step in range(1, 100):
            if ask(15 if place.rank == place.world - 1 and step == 3 else 0):
                break
        ask.meet()
        (Path(folder) / str(place.rank)).write_text(str(step))
    return 0


SENT: dict[str, Any] = {
    "plain": [1, "x", None, (2.5, True)],
    "tensors": [torch.arange(6.0).reshape(2, 3).T, torch.tensor([True, False]), torch.zeros(0), torch.tensor(7)],
    "half": {"weight": torch.arange(5).to(torch.bfloat16)},
}


def read_by_the_first(folder: str, whole: bool) -> int:
    """The first process alone reads; each writes down what it has got."""
    from nnssl.trainers.reading_once import read_once

    place = Place.from_environment()
    assert place is not None

    def read() -> dict[str, Any]:
        assert place.rank == 0
        if not whole:
            raise NnsslError("there is no whole checkpoint")
        return SENT

    with joined(place, CPU, 60):
        torch.save(read_once(read, CPU), Path(folder) / f"rank_{place.rank}.pth")
    return 0


def train_as_one(arguments: dict[str, Any]) -> int:
    """Train with views drawn for the whole batch and then shared out, so that any number of processes sees the same."""
    from nnssl.trainers import launch
    from nnssl.trainers.pretraining import nnsslTrainer

    from nnssl.data.loader import rank_share
    from nnssl.data.sampling import TRAINING

    views = nnsslTrainer._views

    def of_the_whole_batch(self: nnsslTrainer, _batch: Any, stream: int, step: int) -> Any:
        rank, world = self.local_rank, self.world_size
        pool = self.train_pool if stream == TRAINING else self.val_pool
        self.local_rank, self.world_size = 0, 1
        try:
            batch = next(self._loader(pool, stream, range(step, step + 1), workers=0))
            whole = views(self, batch, stream, step)
        finally:
            self.local_rank, self.world_size = rank, world
        share = rank_share(self.run.batch_size or 1, rank, world)
        return {k: v[share.start : share.stop] for k, v in whole.items()}

    nnsslTrainer._views = of_the_whole_batch  # type: ignore[method-assign]
    torch.set_num_threads(1)
    return launch.launch(launch.Request(**arguments))


def train_where_the_first_alone_can_read(arguments: dict[str, Any]) -> int:
    """Train; to the other processes the disk does not give checkpoints."""
    from nnssl.trainers import launch, saving

    from nnssl.transfer import torch_files

    def silent(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    if os.environ["RANK"] != "0":
        torch_files.verify = silent  # type: ignore[assignment]
        saving.READ_WAITS = ()
    torch.set_num_threads(1)
    return launch.launch(launch.Request(**arguments))


def trouble_of_the_last_one(request: Any, run: Any, device: torch.device, _processes: int, *, folder: str) -> int:
    """Three steps with a loss scaler, as in float16, where only the last process' crops are not numbers."""
    from nnssl.trainers.launch import make_trainer

    from nnssl.data.sampling import TRAINING

    trainer = make_trainer(request, run, device)
    trainer.initialize()
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    for batch in trainer._loader(trainer.train_pool, TRAINING, range(3), workers=0):
        if trainer.local_rank == trainer.world_size - 1:
            batch.images.fill_(torch.nan)
        trainer._step(batch)
    (Path(folder) / str(trainer.local_rank)).write_text(str(trainer.state.trouble.look()))
    return 0


def train_with_trouble(arguments: dict[str, Any], bad_steps: list[int], folder: str) -> int:
    """Train; the last process alone sees NaN in some steps. Each writes down where it stands after every roll-back.

    Then another thing is wrong in the last process: its network folder shows checkpoints of another time.
    """
    from nnssl.trainers import launch, pretraining
    from nnssl.trainers.pretraining import nnsslTrainer

    from nnssl.data.sampling import TRAINING
    from nnssl.transfer import torch_files

    views, roll_back = nnsslTrainer._views, pretraining.roll_back

    def poisoned(self: nnsslTrainer, batch: Any, stream: int, step: int) -> Any:
        made = views(self, batch, stream, step)
        if (
            stream == TRAINING
            and step in bad_steps
            and self.local_rank == self.world_size - 1
            and not self.state.rollbacks
        ):
            made = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in made.items()}
        return made

    load = torch_files.load

    def old(path: Path, *given: Any, **more: Any) -> dict[str, Any]:
        content = load(path, *given, **more)
        zeros = {k: torch.zeros_like(v) for k, v in content["method_state"].items()}
        return {**content, "epoch": 0, "method_state": zeros}

    def noted(trainer: nnsslTrainer, trouble: Any) -> None:
        if trainer.local_rank == trainer.world_size - 1:
            torch_files.load = old  # type: ignore[assignment]
        roll_back(trainer, trouble)
        content = trainer.checkpoint_content()
        torch.save(content, Path(folder) / f"rank_{trainer.local_rank}.pth")

    nnsslTrainer._views = poisoned  # type: ignore[method-assign]
    pretraining.roll_back = noted
    torch.set_num_threads(1)
    return launch.launch(launch.Request(**arguments))
