"""A roll-back goes to the same place however often the run was interrupted, and leaves nothing of what it abandons."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnssl.trainers import recovery, saving
from nnssl.trainers.checkpoint import DAMAGED, FORMAT, LATEST, PREVIOUS, at_fixed_place
from nnssl.trainers.rotation import SPARE, settle, ways_back
from nnssl.trainers.trouble import RollBack, Trouble

from nnssl.errors import NnsslError
from nnssl.transfer import torch_files
from tests.reliability.harness import Nursery, alike, arguments_for, same_runs

STOPPED = 128 + signal.SIGTERM
NEVER = (10**6, 0)


def content(epoch: int, step: int = 0, rate: float = 1.0) -> dict[str, Any]:
    """A checkpoint of a run with save_every=10."""
    weights = torch.full((50,), float(1000 * epoch + step))
    return {
        "nnssl_checkpoint": FORMAT, "config": {"save_every": 10}, "epoch": epoch, "step": step, "sums": {},
        "history": [{"epoch": n} for n in range(epoch)], "rate": rate,
        "method_state": {"weight": weights}, "optimizer_state": {"state": {}, "param_groups": []},
        "scaler_state": None, "pool_signature": "pool",
    }  # fmt: skip


def where(folder: Path) -> list[tuple[int, int]]:
    """Epoch and step of the last checkpoint and the one before."""
    found = [torch_files.load(folder / name) for name in (LATEST, PREVIOUS) if (folder / name).is_file()]
    return [(c["epoch"], c["step"]) for c in found]


def test_fixed_places() -> None:
    places = [(e, s) for e in range(31) for s in (0, 3) if at_fixed_place(content(e, s))]
    assert places == [(0, 0), (1, 0), (10, 0), (20, 0), (30, 0)]


def test_what_clock_and_signals_have_written_is_not_kept(tmp_path: Path) -> None:
    """One of the two is always from the last fixed place, whatever lies between."""
    seen = []
    for place in ((0, 0), (0, 5), (1, 0), (4, 0), (7, 2), (9, 0), (10, 0), (11, 0), (20, 0)):
        saving.write_checkpoint(content(*place), tmp_path / LATEST)
        seen.append(where(tmp_path))
    assert seen[1:] == [
        [(0, 5), (0, 0)], [(1, 0), (0, 0)], [(4, 0), (1, 0)], [(7, 2), (1, 0)], [(9, 0), (1, 0)], [(10, 0), (1, 0)],
        [(11, 0), (10, 0)], [(20, 0), (10, 0)],
    ]  # fmt: skip
    assert ways_back(tmp_path, NEVER) == [LATEST, PREVIOUS]
    saving.write_checkpoint(content(23, 1), tmp_path / LATEST)
    assert ways_back(tmp_path, NEVER) == [PREVIOUS, LATEST]


def test_two_that_an_earlier_version_has_left(tmp_path: Path) -> None:
    """It kept the previous one whatever its place: the newer of the two is the way back then."""
    for name, epoch in ((LATEST, 8), (PREVIOUS, 7)):
        torch_files.save(content(epoch), tmp_path / name)
    assert ways_back(tmp_path, NEVER) == [LATEST, PREVIOUS]
    saving.write_checkpoint(content(9), tmp_path / LATEST)
    assert where(tmp_path) == [(9, 0), (7, 0)]
    (tmp_path / PREVIOUS).unlink()
    saving.write_checkpoint(content(12), tmp_path / LATEST)
    assert where(tmp_path) == [(12, 0), (9, 0)], "better than none"


@pytest.mark.parametrize("linked", [True, False])
def test_two_different_ones_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    """Whatever a kill leaves between two changes of names: two places, and `settle` finds them their names again."""
    for epoch in (1, 10):
        saving.write_checkpoint(content(epoch), tmp_path / LATEST)
    if not linked:
        monkeypatch.setattr(saving.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    moments: list[set[int]] = []
    names = ("rename", "replace", "link", "unlink", "remove")

    def watched(event: str, _arguments: tuple) -> None:
        if event in {f"os.{n}" for n in names} and watching:
            watching.clear()  # reading is no change
            whole = [torch_files.load(p) for p in (tmp_path / n for n in (LATEST, PREVIOUS, SPARE)) if p.is_file()]
            moments.append({c["epoch"] for c in whole})
            watching.append(True)

    watching: list[bool] = []
    sys.addaudithook(watched)
    watching.append(True)
    saving.write_checkpoint(content(20), tmp_path / LATEST)
    watching.clear()
    assert len(moments) >= 3
    assert all(len(m) >= 2 for m in moments), moments
    assert where(tmp_path) == [(20, 0), (10, 0)]


@pytest.mark.parametrize(
    ("there", "after"),
    [
        ({LATEST: 11, PREVIOUS: 1, SPARE: 10}, [(11, 0), (10, 0)]),
        ({PREVIOUS: 1, SPARE: 10}, [(10, 0), (1, 0)]),
        ({LATEST: 11, SPARE: 10}, [(11, 0), (10, 0)]),
    ],
)
def test_an_interrupted_change_is_finished(tmp_path: Path, there: dict[str, int], after: list[tuple[int, int]]) -> None:
    for name, epoch in there.items():
        torch_files.save(content(epoch), tmp_path / name)
    saving.sweep(tmp_path)
    assert where(tmp_path) == after
    assert not (tmp_path / SPARE).exists()


def test_a_change_that_has_not_happened(tmp_path: Path) -> None:
    for name, epoch in ((LATEST, 10), (PREVIOUS, 1)):
        torch_files.save(content(epoch), tmp_path / name)
    (tmp_path / SPARE).hardlink_to(tmp_path / LATEST)
    settle(tmp_path)
    assert where(tmp_path) == [(10, 0), (1, 0)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [LATEST, PREVIOUS]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(50))


def trainer_at(folder: Path, epoch: int, said: list[str]) -> Any:
    """What `roll_back` needs of a trainer."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    state = SimpleNamespace(epoch=epoch, step=1, rate=1.0, rollbacks=0, trouble=Trouble(torch.device("cpu")))
    trainer = SimpleNamespace(
        output_folder=str(folder), state=state, method=net, optimizer=optimizer, grad_scaler=None, first=None, local_rank=0,
        train_pool=SimpleNamespace(signature="pool"), device=torch.device("cpu"), disable_checkpointing=False,
        num_iterations_per_epoch=2, run=SimpleNamespace(snapshots=[0, 2, 20, 21, 23, 40], lr=1.0),
        print_to_log_file=said.append,
    )  # fmt: skip
    trainer.save_checkpoint = lambda path, must: saving.write_checkpoint(
        {
            **content(trainer.state.epoch, trainer.state.step, trainer.state.rate),
            "optimizer_state": optimizer.state_dict(),
        },
        Path(path),
    )
    return trainer


def run_at_epoch_12(folder: Path) -> None:
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1).state_dict()
    for place in ((1, 0), (10, 0), (12, 0)):
        saving.write_checkpoint({**content(*place), "optimizer_state": optimizer}, folder / LATEST)


def test_going_back_skips_what_the_clock_has_written(tmp_path: Path) -> None:
    run_at_epoch_12(tmp_path)
    (tmp_path / "snapshots").mkdir()
    for step in (2, 20, 21, 23):
        (tmp_path / "snapshots" / f"encoder_step_{step:06d}.pth").touch()
    said: list[str] = []
    trainer = trainer_at(tmp_path, 12, said)
    recovery.roll_back(trainer, RollBack("bad"))
    assert (trainer.state.epoch, trainer.state.step, trainer.state.rate, trainer.state.rollbacks) == (10, 0, 0.5, 1)
    assert bool((trainer.method.weight == 10_000).all())
    assert f"Going back to {PREVIOUS} (epoch 11, step 0)" in said[-1]
    assert where(tmp_path) == [(10, 0), (10, 0)]
    assert torch_files.load(tmp_path / LATEST)["rate"] == 0.5
    left = sorted(p.name for p in (tmp_path / "snapshots").iterdir())
    assert left == ["encoder_step_000002.pth", "encoder_step_000020.pth"], "those of the abandoned steps"


def test_a_damaged_one_does_not_replace_the_good_one(tmp_path: Path) -> None:
    run_at_epoch_12(tmp_path)
    saving.write_checkpoint({**torch_files.load(tmp_path / PREVIOUS), "epoch": 20}, tmp_path / LATEST)
    raw = bytearray((tmp_path / LATEST).read_bytes())
    raw[raw.index(torch.full((50,), 10_000.0).numpy().tobytes()) + 20] ^= (
        4  # in the weights, where torch does not notice
    )
    (tmp_path / LATEST).write_bytes(raw)
    said: list[str] = []
    trainer = trainer_at(tmp_path, 20, said)
    recovery.roll_back(trainer, RollBack("bad"))
    assert trainer.state.epoch == 10
    assert "damaged" in said[0] and f"{LATEST} is now {DAMAGED}" in said[1]
    assert where(tmp_path) == [(10, 0), (10, 0)]
    for name in (LATEST, PREVIOUS):
        torch_files.verify(tmp_path / name)


def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="There is no checkpoint to go back to"):
        recovery.roll_back(trainer_at(tmp_path, 3, []), RollBack("bad"))


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "stop"), [([4, 5], 3), ([4, 5], 4), ([1], 1)])
def test_an_interruption_does_not_change_where_a_run_goes_back_to(nursery: Nursery, bad: list[int], stop: int) -> None:
    """A signal between the fixed place and the trouble, in another epoch or in the first: same weights, same snapshots."""
    faults = {"nan_steps": bad, "nan_once": True}
    name = f"back{bad[0]}_{stop}"
    settings = {"save_every": 10, "nonfinite_steps": len(bad)}
    plain, stopped = (arguments_for("byol", f"{name}{kind}", **settings) for kind in ("plain", "stopped"))
    done = nursery.run(*plain, **faults)
    assert done.code == 0, done.text
    assert done.text.count("Going back to") == 1
    done = nursery.run(*stopped, **faults, stop_in_step=stop)
    assert done.code == STOPPED, done.text
    done = nursery.run(*stopped, "--c", **faults)
    assert done.code == 0, done.text
    assert f"Going back to {PREVIOUS} (epoch {1 if stop == 1 else 2}, step 0)" in done.text
    folders = [nursery.folder("byol", f"{name}{kind}") for kind in ("plain", "stopped")]
    same_runs(*folders)
    snapshot, encoder = (torch_files.load(folders[0] / n) for n in ("snapshots/encoder_step_000006.pth", "encoder.pth"))
    assert alike(snapshot["network_weights"], encoder["network_weights"]), "that of the last step, not of the bad one"
