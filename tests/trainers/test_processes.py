"""Several processes: one message, one exit code, no waiting for the dead; and the batch they share is the batch of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from nnssl.trainers import processes
from nnssl.trainers.process_group import LostContact, Place
from nnssl.trainers.processes import run_processes

from nnssl.errors import NnsslError
from tests.conftest import REPOSITORY
from tests.trainers import rank_work

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1",
}  # fmt: skip
HAS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def test_a_place_comes_from_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert Place.from_environment() is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert Place.from_environment() == Place(rank=1, world=2, local_rank=1, local_world=2)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RANK", "2", "contradict"),
        ("RANK", "two", "whole numbers"),
        ("LOCAL_RANK", "2", "contradict"),
        ("LOCAL_WORLD_SIZE", "3", "contradict"),
        ("MASTER_ADDR", None, "MASTER_ADDR not"),
    ],
)
def test_wrong_variables_are_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, says: str) -> None:
    for key, text in TORCHRUN.items():
        monkeypatch.setenv(key, text)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(NnsslError, match=says) as found:
        Place.from_environment()
    assert "\n" not in str(found.value)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = Place(rank=8, world=11, local_rank=0, local_world=3)
    with pytest.raises(NnsslError, match=r"3 processes on this machine, but 2 GPU"):
        place.check(torch.device("cuda"))
    place.check(torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(NnsslError, match="NCCL"):
        Place(0, 2, 0, 2).check(torch.device("cuda"))


@pytest.mark.parametrize(
    ("codes", "killed", "expected"),
    [
        ([0, 0], [], 0),
        ([2, 3], [], 2),  # one said why, the other only lost it
        ([143, 143], [], 143),
        ([3, 1], [], 1),
        ([3, processes._SAID], [], 3),  # one has lost a reading process and said so
        ([2, processes._SAID], [], 2),
        ([-9, 3], [], "process 0 of 2 was killed .SIGKILL, often because memory"),
        ([3, -9], [1], "process 1 of 2 did not answer"),
        ([3, 3], [], "lost contact"),
    ],
)
def test_one_exit_code_for_all(codes: list[int], killed: list[int], expected: int | str) -> None:
    if isinstance(expected, int):
        assert processes._verdict(codes, killed) == expected
        return
    with pytest.raises(LostContact, match=expected) as found:
        processes._verdict(codes, killed)
    assert found.value.exit_code == 3
    assert "--c goes on" in str(found.value)


def test_a_killed_process_ends_the_others_at_once(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(LostContact, match="process 1 of 2 was killed"):
        run_processes(partial(rank_work.in_group, "killed", 3600.0, str(note)), 2, False)
    assert time.time() - note.stat().st_mtime < 100, "it waited for the dead one"


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 2.0)
    with pytest.raises(LostContact, match="process 1 of 2 did not answer"):
        run_processes(partial(rank_work.in_group, "hangs", 20.0, str(tmp_path / "note")), 2, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("error", "error: all say this"),
        ("one error", "error: only the last one says this"),
        pytest.param("full disk", "error: cannot write a file: the disk is full", marks=HAS_FULL),
        pytest.param("first cannot write", "error: cannot write a file: the disk is full", marks=HAS_FULL),
        (
            "differ",
            "error: the processes of this run differ: pool is of 1 for process 1 and of 0 for process 0. Are the ",
        ),
    ],
)
def test_an_error_is_said_once(what: str, line: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert run_processes(partial(rank_work.in_group, what, 300.0, str(tmp_path / "note")), 3, False) == 2
    said = [text for text in capfd.readouterr().err.splitlines() if text.startswith("error:")]
    assert len(said) == 1
    assert said[0].startswith(line)


@pytest.mark.slow
@HAS_FULL
@pytest.mark.parametrize("what", ["full disk", "first cannot write"])
def test_a_bad_disk_is_an_error_to_mend_on_every_process(what: str, tmp_path: Path) -> None:
    """As srun starts them: there is nobody who makes one exit code of theirs, and the first process keeps the store."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "from argparse import Namespace; from nnssl.cli.common import run; from tests.trainers import rank_work; "
        f"run(lambda _: rank_work.in_group({what!r}, 300.0, {str(tmp_path / 'note')!r}), Namespace(debug=False))"
    )
    place = {**TORCHRUN, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert "".join(said).count("error: cannot write") == 1, said
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
def test_a_crash_shows_its_traceback_and_its_code(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert run_processes(partial(rank_work.in_group, "crash", 300.0, str(tmp_path / "note")), 2, False) == 1
    assert "ZeroDivisionError: not foreseen" in capfd.readouterr().err


@pytest.mark.slow
def test_processes_leave_after_the_same_step(tmp_path: Path) -> None:
    assert run_processes(partial(rank_work.vote, str(tmp_path)), 3, False) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["4"] * 3
