"""What a run does about numerical trouble: back to the last fixed place at a lower rate, and in the end a diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.trainers.checkpoint import LATEST, restore
from nnssl.trainers.export import forget_snapshots
from nnssl.trainers.reading_once import read_once, with_tensors
from nnssl.trainers.rotation import ways_back
from nnssl.trainers.saving import put_damaged_aside, read_checkpoint
from nnssl.trainers.step import SKIPPED
from nnssl.trainers.trouble import RollBack, all_finite

from nnssl.data.sampling import TRAINING
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer

LOOK = 50
"""Steps between two looks at the record of trouble; the host waits for the device there."""
SLOWER = 0.5
"""Factor on the learning rate after a roll-back."""
MOST = 2
"""Roll-backs of a run, then it stops."""
START = "the start"
"""What a roll-back calls the untrained run."""
SICK_EPOCHS = 3
"""Epochs in a row whose health must be bad before `on_collapse=stop` stops a run."""


def check_numbers(trainer: nnsslTrainer) -> None:
    """Look at the record now and then, always after the same steps, so that a continued run does the same.

    Raises:
        RollBack: too many steps in a row had no finite numbers, or the whole epoch, or the weights have none.
    """
    state, steps = trainer.state, trainer.num_iterations_per_epoch
    if state.step % LOOK and state.step != steps:
        return
    done = state.epoch * steps + state.step
    longest = state.trouble.look()
    if longest >= trainer.run.nonfinite_steps:
        cases = _cases_of(trainer, int(state.trouble.first))
        raise RollBack(f"{longest} steps in a row were skipped: {state.trouble.diagnosis(done, cases)}")
    if state.step == steps:
        if round(float(state.sums[SKIPPED])) >= max(steps, trainer.run.nonfinite_steps):
            raise RollBack(f"no step of epoch {state.epoch + 1} had a finite gradient")
        if not all_finite(list(trainer.method.parameters())):
            raise RollBack(f"weights are not finite after step {done}; {state.trouble.diagnosis(done)}")


def _cases_of(trainer: nnsslTrainer, step: int) -> list[str]:
    """Names of the cases in a step's batch: crops follow from seed and step."""
    place = trainer.sampler(trainer.train_pool, TRAINING)
    size = trainer.run.batch_size or 1
    return [trainer.train_pool.cases[place(n).case].name for n in range(step * size, (step + 1) * size)]


def first_content(trainer: nnsslTrainer) -> dict[str, Any]:
    """The untrained run, kept in memory until there is a checkpoint to go back to."""
    return with_tensors(trainer.checkpoint_content(), lambda tensor: tensor.detach().to("cpu", copy=True))


def roll_back(trainer: nnsslTrainer, trouble: RollBack) -> None:
    """Put the checkpoint of the last fixed place back, or the start where there is none yet, and go on at a lower rate.

    Raises:
        NnsslError: that has been done often enough.
    """
    done, rate = trainer.state.rollbacks, trainer.state.rate * SLOWER
    say = trainer.print_to_log_file
    if done >= MOST:
        raise NnsslError(
            f"pretraining stopped: {trouble}. Going back to an earlier checkpoint at half the rate has not helped "
            f"{MOST} times. Look at the images of these cases; else start again with a lower --lr (it was "
            f"{trainer.run.lr:g}), a lower --set clip or --set precision=float32, and --overwrite or --name"
        )
    content, where = read_once(lambda: _place_to_go_back_to(trainer, trouble), trainer.device)
    trainer.state = restore(
        content, trainer.method, trainer.optimizer, trainer.grad_scaler, trainer.train_pool, trainer.device
    )
    trainer.state.rate, trainer.state.rollbacks = rate, done + 1
    trainer.current_epoch = trainer.state.epoch
    say(
        f"WARNING: {trouble}. Going back to {where} (epoch {trainer.state.epoch + 1}, step {trainer.state.step}); "
        f"the learning rate is {rate:g} of what was asked for from here on"
    )
    if where != START:
        trainer.save_checkpoint(str(Path(trainer.output_folder) / LATEST), must=False)
    forget_snapshots(trainer)


def _place_to_go_back_to(trainer: nnsslTrainer, trouble: RollBack) -> tuple[dict[str, Any], str]:
    """Content of the checkpoint from the last fixed place, which is the same however often the run was interrupted.

    Asked of the first process only: what another one sees of a network folder may be older.
    """
    if trainer.first is not None:
        return trainer.first, START
    folder, say = Path(trainer.output_folder), trainer.print_to_log_file
    names = [] if trainer.disable_checkpointing else ways_back(folder, (trainer.state.epoch, trainer.state.step))
    if not names:
        raise NnsslError(f"pretraining stopped: {trouble}. There is no checkpoint to go back to")
    content, found = read_checkpoint(folder / names[0], say, names)
    put_damaged_aside(found, say, names)
    return content, found.name


def check_health(trainer: nnsslTrainer) -> None:
    """Stop a run that has been ill for some epochs, if it is asked to.

    Raises:
        NnsslError: it has, and the checkpoint is written.
    """
    recent = trainer.state.history[-SICK_EPOCHS:]
    if trainer.run.on_collapse != "stop" or len(recent) < SICK_EPOCHS:
        return
    found = [trainer.method.health(row) for row in recent]
    if all(found):
        trainer.save_checkpoint(str(Path(trainer.output_folder) / LATEST))
        if trainer.is_ddp:
            trainer._signal_vote.meet()  # the others would leave at once, and the first be killed while it saves
        raise NnsslError(
            f"stopped in epoch {trainer.state.epoch} (on_collapse=stop): for {SICK_EPOCHS} epochs {'; '.join(found[-1])}. "
            "To go on all the same: --c --set on_collapse=warn"
        )
