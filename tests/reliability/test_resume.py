"""A run that was killed, at whatever moment, ends like one that was not; damaged files and bad disks change nothing either.

The slow part kills every method's run several times; `DEATHS` random ones each, drawn from the method's name.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from nnssl.trainers.checkpoint import DAMAGED, LATEST, PREVIOUS

from nnssl.methods import METHODS
from nnssl.transfer import torch_files
from tests.reliability.harness import (
    KILLED,
    Nursery,
    arguments_for,
    killed_and_continued,
    metrics,
    random_death,
    same_runs,
)

NAMES = [*sorted(METHODS), "masked_region+byol"]
DEATHS = 4
METHOD = "moco"  # a teacher and a queue
died: dict[str, int] = {}


@pytest.fixture(scope="module")
def whole(nursery: Nursery) -> Path:
    """An uninterrupted run."""
    done = nursery.run(*arguments_for(METHOD, "whole"))
    assert done.code == 0, done.text
    return nursery.folder(METHOD, "whole")


def test_killed_and_continued(nursery: Nursery, whole: Path) -> None:
    """In the write of the first checkpoint, just before the last becomes the previous, in a step, in a later write."""
    deaths = [{"kill_in_write": 2}, {"kill_at_event": 51}, {"kill_in_step": 1}, {"kill_in_write": 3}]
    assert killed_and_continued(nursery, arguments_for(METHOD, "killed"), deaths) == deaths
    same_runs(whole, nursery.folder(METHOD, "killed"))


@pytest.mark.slow
def test_a_damaged_latest_costs_time_only(nursery: Nursery, whole: Path) -> None:
    arguments = arguments_for(METHOD, "damaged")
    assert nursery.run(*arguments, kill_in_step=6).code == KILLED
    folder = nursery.folder(METHOD, "damaged")
    assert torch_files.load(folder / LATEST)["epoch"] == 2
    raw = bytearray((folder / LATEST).read_bytes())
    raw[len(raw) // 2] ^= 4
    (folder / LATEST).write_bytes(raw)
    done = nursery.run(*arguments, "--c")
    assert done.code == 0, done.text
    assert f"Continuing from the one before, {PREVIOUS}" in done.text
    assert "continuing in epoch 2 after step 0" in done.text
    assert not (folder / DAMAGED).exists(), "it is cleared away at the end"
    same_runs(whole, folder)

    arguments = arguments_for(METHOD, "hopeless")
    assert nursery.run(*arguments, kill_in_step=6).code == KILLED
    for name in (LATEST, PREVIOUS):
        (nursery.folder(METHOD, "hopeless") / name).write_bytes(b"")
    done = nursery.run(*arguments, "--c")
    assert done.code == 2
    assert "there is no whole checkpoint to continue from" in done.text


@pytest.mark.slow
def test_a_full_disk_for_a_while(nursery: Nursery, whole: Path) -> None:
    """A few changes of files fail in the middle of the run: pictures, tables and checkpoints are tried again or left out."""
    done = nursery.run(*arguments_for(METHOD, "full"), disk={"errno": errno.ENOSPC, "from": 20, "to": 32})
    assert done.code == 0, done.text
    assert "the disk is full" in done.text
    same_runs(whole, nursery.folder(METHOD, "full"))


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(nursery: Nursery, whole: Path) -> None:
    arguments = arguments_for(METHOD, "closed")
    done = nursery.run(*arguments, disk={"errno": errno.EROFS, "from": 20, "to": 10**6})
    assert done.code == 2
    assert "Traceback" not in done.text
    assert (
        "the disk is read-only" in done.text
        and "The state is saved in" in done.text
        and "continue with --c" in done.text
    )
    assert nursery.run(*arguments, "--c").code == 0
    same_runs(whole, nursery.folder(METHOD, "closed"))


@pytest.mark.slow
def test_a_disk_that_is_closed_from_the_start(nursery: Nursery) -> None:
    done = nursery.run(*arguments_for(METHOD, "never"), disk={"errno": errno.EROFS, "from": 1, "to": 10**6})
    assert done.code == 2
    assert "Traceback" not in done.text
    assert "error: cannot write" in done.text and "the disk is read-only" in done.text


@pytest.mark.slow
def test_a_few_bad_steps_are_left_out(nursery: Nursery) -> None:
    done = nursery.run(*arguments_for("byol", "two_bad"), nan_steps=[1, 4])
    assert done.code == 0, done.text
    rows = metrics(nursery.folder("byol", "two_bad"))
    assert [row["skipped_steps"] for row in rows] == [1, 0, 1]
    assert all(row["train_loss"] == row["train_loss"] for row in rows), "the mean is over the steps that were made"


@pytest.mark.slow
def test_trouble_goes_back_and_then_stops(nursery: Nursery, whole: Path) -> None:
    """The same steps are bad every time: two times back at half the rate, then the diagnosis. Healed, the run goes on."""
    arguments = arguments_for(METHOD, "nan", nonfinite_steps=2)
    done = nursery.run(*arguments, nan_steps=[2, 3])
    assert done.code == 2
    assert "Traceback" not in done.text
    assert done.text.count(f"Going back to {LATEST}") == 2
    assert "the learning rate is 0.25 of what was asked for" in done.text
    assert "error: pretraining stopped: 2 steps in a row were skipped" in done.text
    assert "not finite from step 2 on" in done.text and "cases of that step: case_" in done.text
    saved = torch_files.load(nursery.folder(METHOD, "nan") / LATEST)
    assert (saved["epoch"], saved["rate"], saved["rollbacks"]) == (1, 0.25, 2)

    done = nursery.run(*arguments, "--c")
    assert done.code == 0, done.text
    rows, plain = metrics(nursery.folder(METHOD, "nan")), metrics(whole)
    assert [row["lr"] for row in rows] == pytest.approx([plain[0]["lr"], plain[1]["lr"] / 4, plain[2]["lr"] / 4])


@pytest.mark.slow
def test_trouble_and_a_kill(nursery: Nursery) -> None:
    """The lower rate is in the checkpoint."""
    faults = {"nan_steps": [2]}
    settings = {"nonfinite_steps": 1}
    first = nursery.run(*arguments_for(METHOD, "calm", **settings), **faults, kill_in_step=7)
    assert first.code == KILLED and first.text.count("Going back") == 2
    assert nursery.run(*arguments_for(METHOD, "calm", **settings), "--c").code == 0
    assert metrics(nursery.folder(METHOD, "calm"))[-1]["skipped_steps"] == 0
    assert torch_files.load(nursery.folder(METHOD, "calm") / "checkpoint_final.pth")["rate"] == 0.25


@pytest.mark.slow
def test_trouble_before_the_first_checkpoint_goes_back_to_the_start(nursery: Nursery) -> None:
    arguments = arguments_for(METHOD, "early", nonfinite_steps=2)
    done = nursery.run(*arguments, nan_steps=[0, 1])
    assert done.code == 2
    assert done.text.count("Going back to the start (epoch 1, step 0)") == 2
    done = nursery.run(*arguments, "--c")
    assert done.code == 0, done.text
    assert "before its first checkpoint; it begins anew" in done.text


@pytest.mark.slow
def test_a_collapsed_run_stops_if_asked_to(nursery: Nursery) -> None:
    """SimSiam with layer norm in its heads collapses here within a step (embedding_std below 0.001)."""
    arguments = [*arguments_for("simsiam", "ill"), "--epochs", "4", "--lr", "1e-2", "--set", "head_norm=layer"]
    done = nursery.run(*arguments, "--set", "on_collapse=stop")
    assert done.code == 2, done.text
    assert "error: stopped in epoch 3 (on_collapse=stop)" in done.text
    assert torch_files.load(nursery.folder("simsiam", "ill") / LATEST)["epoch"] == 3
    assert nursery.run(*arguments, "--c", "--set", "on_collapse=warn").code == 0
    assert len(metrics(nursery.folder("simsiam", "ill"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMES)
def test_every_method_at_random_moments(nursery: Nursery, method: str) -> None:
    configuration = ("2d", "3d_fullres")[NAMES.index(method) % 2]
    count = nursery.root / "count"
    done = nursery.run(*arguments_for(method, "plain", configuration), count=str(count))
    assert done.code == 0, done.text
    draw = random.Random(method)
    changes = int(count.read_text().split()[0])
    deaths = [random_death(draw, changes, done.seconds, first=n == 0) for n in range(DEATHS)]
    died[method] = len(killed_and_continued(nursery, arguments_for(method, "killed", configuration), deaths))
    same_runs(nursery.folder(method, "plain", configuration), nursery.folder(method, "killed", configuration))


@pytest.mark.slow
def test_that_was_enough() -> None:
    if set(died) != set(NAMES):
        pytest.skip("only some of the methods were killed")
    print(f"{sum(died.values())} kills: {died}")
    assert sum(died.values()) >= 50
