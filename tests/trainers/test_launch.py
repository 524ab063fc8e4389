"""Before a run begins: whose folder it is, and which settings it goes on with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnssl.trainers.launch import Request, launch, prepare, train
from nnssl.trainers.run_config import make_run_config
from nnssl.trainers.saving import saved_config
from nnssl.trainers.start import clear_run, wait_for_predecessor

from nnssl.errors import NnsslError
from nnssl.transfer import torch_files
from tests.conftest import run_folder

HOLD = """
import sys
from pathlib import Path
from nnssl.trainers.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(pretraining: Path) -> Path:
    """The folder of a run that has a checkpoint."""
    folder = run_folder(Path(os.environ["nnUNet_results"]))
    folder.mkdir(parents=True)
    (folder / "checkpoint_latest.pth").write_bytes(b"of the old run")
    return folder


@pytest.fixture
def held(folder: Path) -> Iterator[Path]:
    """The same, while another process trains in it."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    yield folder
    other.communicate("")


def request(**more: object) -> Request:
    return Request("902", "3d_fullres", "masked_region", device="cpu", **more)  # type: ignore[arg-type]


def test_overwrite_does_not_pull_the_folder_from_under_a_running_process(held: Path) -> None:
    with pytest.raises(NnsslError, match=r"another process .* is training in this folder"):
        clear_run(held, patience=0.3)
    assert (held / "checkpoint_latest.pth").read_bytes() == b"of the old run"


def test_a_continued_run_waits_for_the_one_before_and_then_reads_its_checkpoint(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler starts the next job while the last one still saves."""
    with pytest.raises(NnsslError, match=r"another process .* is training in this folder"):
        wait_for_predecessor(held, patience=0.3)
    order: list[str] = []
    trainer = SimpleNamespace(
        local_rank=0,
        output_folder=str(held),
        plans_manager=SimpleNamespace(plans={}),
        initialize=lambda: order.append("built"),
        print_to_log_file=print,
        load_checkpoint=lambda _: order.append("read"),
        train_pool=SimpleNamespace(signature=""),
        state=SimpleNamespace(epoch=0, step=0),
        run_training=lambda: order.append("trained"),
    )
    monkeypatch.setattr("nnssl.trainers.launch.make_trainer", lambda *_: trainer)
    monkeypatch.setattr("nnssl.trainers.launch.wait_for_predecessor", lambda _: order.append("waited"))
    run = make_run_config("masked_region", {}, None, [])
    assert train(request(resume=True), run, torch.device("cpu"), 1) == 0
    assert order == ["waited", "built", "read", "trained"]


def test_overwrite_waits_for_a_running_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Path] = []
    monkeypatch.setattr("nnssl.trainers.launch.wait_for_predecessor", waited.append)
    prepare(request(overwrite=True))
    assert waited == [folder]


def test_overwrite_clears_the_folder(folder: Path) -> None:
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "encoder.pth").write_bytes(b"old")
    (folder / "training_log_new.txt").write_text("new")
    clear_run(folder, folder / "training_log_new.txt")
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")] == ["training_log_new.txt"]
    clear_run(folder)
    assert not folder.exists()
    clear_run(folder)  # nothing there: nothing to do
    prepare(request(overwrite=True))
    assert not folder.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"processes": 3, "flags": {"batch_size": 2}},  # known at once
        {"sets": ("block=7",)},  # only the network knows
    ],
    ids=["no network", "network"],
)
def test_a_refused_command_overwrites_nothing(folder: Path, more: dict[str, Any]) -> None:
    with pytest.raises(NnsslError, match=r"batch of 2 crop.* over 3 processes|block"):
        launch(request(overwrite=True, **more))
    assert (folder / "checkpoint_latest.pth").read_bytes() == b"of the old run"
    assert not list(folder.glob("training_log*"))


def test_without_its_config_a_run_goes_on_with_the_settings_in_its_checkpoint(folder: Path) -> None:
    """Somebody copied the checkpoint alone to another machine."""
    config = make_run_config("masked_region", {"lr": 0.002, "seed": 5, "epochs": 3}, None, [])
    torch_files.save({"nnssl_checkpoint": 2, "config": config.model_dump()}, folder / "checkpoint_latest.pth")
    assert prepare(request(resume=True)) == config
    with pytest.raises(NnsslError, match="seed is 5 there, not 6"):
        prepare(request(resume=True, flags={"seed": 6}))


@pytest.mark.parametrize("content", ["{", "[]", '{"config": 3}'])
def test_a_damaged_config_is_named_once(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(NnsslError, match="--overwrite") as raised:
        saved_config(folder)
    assert str(raised.value).count("config.json") == 1
