"""Checkpoint files: whole or not at all, damage is found, and a bad disk is a line and not a loss."""

from __future__ import annotations

import errno
import os
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnssl.trainers import saving
from nnssl.trainers.checkpoint import DAMAGED, FINAL, FORMAT, LATEST, PREVIOUS
from nnssl.trainers.pretraining import nnsslTrainer
from nnssl.trainers.run_lock import NAME, RunLock
from nnssl.trainers.stopping import StopRequest

from nnssl import disk
from nnssl.errors import MissingError, NnsslError
from nnssl.transfer import torch_files
from tests.conftest import REPOSITORY
from tests.trainers.test_pretraining import same_tensors


def content(number: int) -> dict:
    return {
        "nnssl_checkpoint": FORMAT,
        "number": number,
        "weights": torch.arange(5000.0) + number,
        "plain": {"a": [1, "x"]},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a last and a previous checkpoint, 2 and 1."""
    for number in (1, 2):
        saving.write_checkpoint(content(number), tmp_path / LATEST)
    return tmp_path


def number_in(path: Path) -> int:
    return torch_files.load(path)["number"]


def test_the_last_becomes_the_previous(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [LATEST, PREVIOUS]
    assert (number_in(folder / LATEST), number_in(folder / PREVIOUS)) == (2, 1)


def test_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    saving.write_checkpoint(content(3), folder / LATEST)
    assert (number_in(folder / LATEST), number_in(folder / PREVIOUS)) == (3, 2)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Or changes nothing: torch itself would read most of these files without a word."""
    torch_files.save(content(1), tmp_path / "whole.pth")
    raw = (tmp_path / "whole.pth").read_bytes()
    draw, found = np.random.default_rng(0), 0
    for place in draw.choice(len(raw), 150, replace=False):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(draw.integers(8))
        path = tmp_path / "damaged.pth"
        path.write_bytes(damaged)
        try:
            torch_files.verify(path)
        except NnsslError:
            found += 1
            continue
        assert same_tensors(torch_files.load(path), content(1)), place
    assert found > 100


@pytest.mark.parametrize("harm", ["truncated", "empty", "flipped", "text", "missing"])
def test_a_damaged_last_checkpoint_falls_back(folder: Path, harm: str) -> None:
    latest, raw, said = folder / LATEST, (folder / LATEST).read_bytes(), []
    if harm == "missing":
        latest.unlink()
    else:
        flipped = raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 16]) + raw[len(raw) // 2 + 1 :]
        latest.write_bytes({"truncated": raw[:-700], "empty": b"", "flipped": flipped, "text": b"hello"}[harm])
    read, found = saving.read_checkpoint(latest, said.append)
    assert (read["number"], found.name) == (1, PREVIOUS)
    assert len(said) == 1
    assert "Continuing from the one before" in said[0]
    assert ("does not exist" if harm == "missing" else "damaged") in said[0]
    saving.put_damaged_aside(found, said.append)
    assert not latest.exists()
    assert (folder / DAMAGED).exists() == (harm != "missing")
    saving.write_checkpoint(content(3), latest)
    assert (number_in(latest), number_in(folder / PREVIOUS)) == (3, 1), (
        "the damaged one must not become the previous one"
    )


class Unreadable:
    """Files whose bytes the disk does not give; real ones need a broken disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, *names: str) -> None:
        self.left, self.names, self._testzip = times, names, zipfile.ZipFile.testzip
        monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: self(archive))
        monkeypatch.setattr(saving, "READ_WAITS", (0.0, 0.0))

    def __call__(self, archive: zipfile.ZipFile) -> str | None:
        if Path(archive.filename or "").name in self.names and self.left > 0:
            self.left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._testzip(archive)


def test_an_unreadable_last_checkpoint_falls_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    Unreadable(monkeypatch, 99, LATEST)
    read, found = saving.read_checkpoint(folder / LATEST, said.append)
    assert (read["number"], found.name) == (1, PREVIOUS)
    assert "the disk does not answer; trying again" in said[0]
    assert f"{LATEST} cannot be read (Input/output error). Continuing from the one before" in said[1]
    saving.put_damaged_aside(found, said.append)
    assert (folder / DAMAGED).is_file()


def test_a_disk_that_gives_a_checkpoint_late(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    Unreadable(monkeypatch, 2, LATEST)
    read, found = saving.read_checkpoint(folder / LATEST, said.append)
    assert (read["number"], found.name, len(said)) == (2, LATEST, 1)


def test_nobody_is_told_to_throw_away_what_the_disk_does_not_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Unreadable(monkeypatch, 99, LATEST, PREVIOUS)
    with pytest.raises(NnsslError, match=r"no whole checkpoint.*cannot be read.*Look after the disk") as found:
        saving.read_checkpoint(folder / LATEST, print)
    assert "--overwrite" not in str(found.value)


def test_what_is_read_back_comes_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed, then forgotten by the system, then read: what is in its memory would always be right."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("no posix_fadvise here")
    order: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., None]:
        def noting(*given: Any) -> None:
            order.append(name if name != "posix_fadvise" or given[3] == os.POSIX_FADV_DONTNEED else "other advice")
            call(*given)

        return noting

    for module, name in ((os, "fsync"), (os, "posix_fadvise"), (torch_files, "verify")):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    saving.write_checkpoint(content(1), tmp_path / LATEST)
    assert order[:3] == ["fsync", "posix_fadvise", "verify"]


def test_both_damaged_is_an_error_and_not_a_new_start(folder: Path) -> None:
    for name in (LATEST, PREVIOUS):
        (folder / name).write_bytes(b"")
    with pytest.raises(NnsslError, match=f"(?s)no whole checkpoint.*{LATEST}.*{PREVIOUS}.*--overwrite"):
        saving.read_checkpoint(folder / LATEST, print)


def test_a_newer_format_is_no_damage(folder: Path) -> None:
    saving.write_checkpoint({**content(3), "nnssl_checkpoint": FORMAT + 1}, folder / LATEST)
    with pytest.raises(NnsslError, match="update nnssl"):
        saving.read_checkpoint(folder / LATEST, print)


def test_what_to_continue(tmp_path: Path) -> None:
    said: list[str] = []
    assert saving.checkpoint_to_continue(tmp_path, said.append) is None
    assert "there is no run in" in said.pop()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert saving.checkpoint_to_continue(tmp_path, said.append) is None
    assert "before its first checkpoint" in said.pop()
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    with pytest.raises(NnsslError, match="has done 2 epochs and has no checkpoint"):
        saving.checkpoint_to_continue(tmp_path, said.append)
    for name in (PREVIOUS, LATEST, FINAL):
        (tmp_path / name).touch()
        found = saving.checkpoint_to_continue(tmp_path, said.append)
        assert found is not None and found.name == name
    with pytest.raises(MissingError):
        saving.read_checkpoint(tmp_path / "elsewhere.pth", said.append)


class BadDisk:
    """Makes the next `times` flushes to disk fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
        self.number, self.left, self._fsync = number, times, os.fsync
        monkeypatch.setattr(os, "fsync", self)
        monkeypatch.setattr(disk, "WAITS", (0.0, 0.0))

    def __call__(self, handle: int) -> None:
        if self.left > 0:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))
        self._fsync(handle)


def keeper(folder: Path, said: list[str], hurry: bool = False) -> saving.Keeper:
    return saving.Keeper(folder, said.append, lambda: hurry)


def test_a_disk_that_recovers_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    BadDisk(monkeypatch, errno.ENOSPC, 2)
    assert keeper(folder, said).save(content(3), folder / LATEST, must=True)
    assert number_in(folder / LATEST) == 3
    assert len(said) == 1
    assert "the disk is full" in said[0] and "trying again" in said[0]


def test_a_disk_that_stays_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two failures are warnings, the third one stops the run and leaves a copy elsewhere; nothing that was there is lost."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setattr(saving.tempfile, "mkdtemp", lambda prefix: str(elsewhere))
    said: list[str] = []
    keep, bad = keeper(folder, said), BadDisk(monkeypatch, errno.ENOSPC, 9)
    assert not keep.save(content(3), folder / LATEST, must=False)
    assert not keep.save(content(4), folder / LATEST, must=False)
    assert all("Training goes on" in line for line in said if "trying" not in line)
    with pytest.raises(NnsslError, match=r"the disk is full.*The state is saved in .*continue with --c"):
        keep.save(content(5), folder / LATEST, must=False)
    assert number_in(elsewhere / LATEST) == 5
    assert (number_in(folder / LATEST), number_in(folder / PREVIOUS)) == (2, 1)
    assert not list(folder.glob(".*")), "no half-written file stays behind"
    assert keep.save(content(6), folder / LATEST, must=False)
    assert (keep.failures, bad.left) == (0, 0)


def test_no_room_for_a_copy_either(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is said that the run could not be saved, not that there was no folder for a copy."""

    def none(prefix: str) -> str:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(saving.tempfile, "mkdtemp", none)
    BadDisk(monkeypatch, errno.ENOSPC, 99)
    with pytest.raises(NnsslError, match=rf"{LATEST}: the disk is full.*\. Mend that, and continue with --c"):
        keeper(folder, []).save(content(3), folder / LATEST, must=True)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_is_forbidden_is_not_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    said: list[str] = []
    bad = BadDisk(monkeypatch, number, 100)
    assert not keeper(folder, said).save(content(3), folder / LATEST, must=False)
    assert bad.left == 99
    assert "read-only" in said[0] or "not allowed" in said[0]
    assert number_in(folder / LATEST) == 2


def test_a_scheduler_does_not_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = BadDisk(monkeypatch, errno.ENOSPC, 100)
    assert not keeper(folder, [], hurry=True).save(content(3), folder / LATEST, must=False)
    assert bad.left == 99


def test_a_folder_that_has_gone_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a network disk was mounted there is an empty folder of the local disk."""
    monkeypatch.setattr(disk, "WAITS", ())
    said: list[str] = []
    gone = tmp_path / "gone"
    assert not keeper(gone, said).save(content(1), gone / LATEST, must=False)
    assert "the folder has gone" in said[0]
    assert not gone.exists()


def test_a_picture_may_fail_but_a_mistake_may_not(tmp_path: Path) -> None:
    def full() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("torch says something else") from error

    said: list[str] = []
    saving.tolerated(full, tmp_path / "preview.png", said.append)
    assert "preview.png" in said[0] and "the disk is full" in said[0]
    with pytest.raises(ZeroDivisionError):
        saving.tolerated(lambda: 1 / 0, tmp_path / "preview.png", said.append)


def test_a_really_full_disk_shows_through_torchs_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises((OSError, RuntimeError)) as caught:
        torch_files.write(content(1), file)
    found = disk.disk_error(caught.value)
    assert found is not None and found.errno == errno.ENOSPC


def test_every_torch_file_is_written_so_that_the_disks_error_shows() -> None:
    """`torch.save` with a path hides it: then nothing is tried again, and the user reads of "inline_container.cc"."""
    files = [p for top in ("nnssl", "planners", "trainers") for p in (REPOSITORY / top).rglob("*.py")]
    assert len(files) > 200
    found = {p.name for p in files if re.search(r"^ *torch\.save\(", p.read_text(), re.MULTILINE)}
    assert found == {"torch_files.py"}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Record locks are per process, so the other one is a real one."""
    reading, writing = os.pipe()
    with RunLock(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with RunLock(tmp_path, patience=0.3):
                    os.write(writing, b"taken")
            except NnsslError as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reading, 1000).decode()
        assert f"process {os.getpid()}" in said and "training in this folder" in said
    assert not (tmp_path / NAME).exists()
    with RunLock(tmp_path, patience=0.0):
        pass


def test_a_signal_during_the_export_lets_it_finish() -> None:
    done: list[str] = []
    trainer = SimpleNamespace(output_folder=".", local_rank=1, num_epochs=1, state=SimpleNamespace(epoch=1))
    trainer.stop, trainer._workers = StopRequest(), lambda: 0
    trainer.on_train_start = lambda: done.append("begun")
    trainer.on_train_end = lambda: (os.kill(os.getpid(), signal.SIGTERM), done.append("exported"))
    former = signal.signal(signal.SIGTERM, lambda *_: done.append("would have died"))
    try:
        nnsslTrainer.run_training(trainer)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGTERM, former)
    assert done == ["begun", "exported"]
    assert trainer.stop.signal_number == signal.SIGTERM


def test_sweep_removes_what_a_kill_left(folder: Path) -> None:
    (folder / f".{LATEST}.abc.tmp.pth").write_bytes(b"half")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / ".encoder_step_000003.pth.x.tmp.pth").write_bytes(b"half")
    saving.sweep(folder)
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [LATEST, PREVIOUS]
