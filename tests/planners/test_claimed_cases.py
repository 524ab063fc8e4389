"""Calls that preprocess the same dataset at the same moment: no case in two hands, and a killed call costs nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nnssl.planners import shards
from nnssl.planners.records import Records
from nnssl.planners.shards import run_claimed_cases

from nnssl.data import claims
from tests.conftest import make_raw
from tests.planners.test_shards import everything, folder, plan


def start(log: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nnssl.cli.plan_and_preprocess", "-d", "902", "-np", "1", "--only_pp"]
    with log.open("w") as out:
        return subprocess.Popen(
            [*command, "-c", "3d_fullres", *arguments], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@pytest.mark.slow
def test_three_calls_and_a_kill(nnunet_folders: Path) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 12, 0)
    assert plan("-c", "3d_fullres") == 0
    whole = everything(nnunet_folders)
    base = folder(nnunet_folders)
    records = Records(base, "nnsslPlans_3d_fullres")
    for name in records.names():
        records.forget(name)
    for path in (base / "nnsslPlans_3d_fullres").iterdir():
        path.unlink()
    logs = [nnunet_folders / f"log_{i}" for i in range(3)]
    calls = [start(log) for log in logs]
    try:
        deadline = time.monotonic() + 500
        while not records.names():
            assert time.monotonic() < deadline and all(c.poll() is None for c in calls), [p.read_text() for p in logs]
            time.sleep(0.01)
        os.kill(calls[0].pid, signal.SIGKILL)  # the command alone: its workers must see it
        assert [c.wait(timeout=500) for c in calls[1:]] == [0, 0], [p.read_text() for p in logs]
    finally:
        for process in calls:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert everything(nnunet_folders) == whole
    assert not list(records.claims.iterdir())
    stored = [p.name for p in (base / "nnsslPlans_3d_fullres").iterdir()]
    assert not [name for name in stored if name.startswith(".")], "what the killed call left half-written"
    assert len(stored) == 4 * 12
    deadline = time.monotonic() + 60
    while alive := living(calls[0].pid):
        assert time.monotonic() < deadline, f"the killed call's workers outlive it: {alive}"
        time.sleep(0.2)


def living(group: int) -> list[str]:
    """Processes of a group, without those that have ended and that nobody has asked after."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [" ".join(row[2:]) for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def square(item: tuple[Path, int]) -> int | None:
    with claims.claim(item[0]) as mine:
        return item[1] ** 2 if mine else None


def test_a_case_in_other_hands_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is done here, in this process: what matters is who gets which case when."""
    calls: list[list[int]] = []

    def here(work: Any, items: Any, processes: int, description: str) -> Any:
        calls.append([number for _, number in items])
        return {i: work(item) for i, item in enumerate(items)}, {}

    monkeypatch.setattr(shards, "run_cases", here)
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    locks = [tmp_path / f"case_{i}" for i in range(4)]
    other = claims.claim(locks[2])
    other.__enter__()
    monkeypatch.setattr(shards.time, "sleep", lambda _: other.__exit__(None, None, None))
    results, failures = run_claimed_cases(square, [(lock, i) for i, lock in enumerate(locks)], locks, 1, "test")
    assert results == {0: 0, 1: 1, 2: 4, 3: 9}
    assert failures == {}
    assert calls == [[0, 1, 2, 3], [2]]


def test_a_case_that_nobody_seems_to_have_is_not_asked_for_without_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen as free and yet not to be had, as on a network folder that shows old listings."""
    rounds: list[float] = []
    monkeypatch.setattr(shards, "run_cases", lambda *_: ({0: None if len(rounds) < 3 else 1}, {}))
    monkeypatch.setattr(shards.time, "sleep", rounds.append)
    assert run_claimed_cases(square, [(tmp_path / "a", 1)], [tmp_path / "a"], 1, "test") == ({0: 1}, {})
    assert rounds == [shards.POLL_SECONDS] * 3


def test_claims_on_cases_are_told_apart(tmp_path: Path) -> None:
    """`scan.1` is a case of its own, not who follows a dead owner of `scan`."""
    records = Records(tmp_path, "x")
    records.claims.mkdir(parents=True)
    names = ("scan.1", "scan", "scan.lock.1", "scan.lock")
    with contextlib.ExitStack() as stack:
        assert all(stack.enter_context(claims.claim(records.lock(name))) for name in names)
        assert all(claims.is_claimed(records.lock(name)) for name in names)
    assert not list(records.claims.iterdir())


def test_a_measurement_that_another_job_has_made_is_not_made_again(
    nnunet_folders: Path, capfd: pytest.CaptureFixture
) -> None:
    make_raw(nnunet_folders / "raw", "Dataset902_Pool", 2, 0)
    assert plan("--no_pp") == 0
    assert plan("--no_pp", "--shard", "1/2") == 0
    assert re.search("up to date: another job", capfd.readouterr().out)
    assert not (folder(nnunet_folders) / "nnssl_fingerprint_pieces").exists()
