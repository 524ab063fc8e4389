"""Processes that are started again, by torchrun or by the scheduler, go on with their run and never begin it from zero."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from nnssl.trainers.launch import Request, _prepared_by_the_first, prepare
from nnssl.trainers.process_group import Place
from nnssl.trainers.relaunch import FILE, Launch
from nnssl.trainers.run_config import make_run_config

from nnssl.data.claims import owner, process_identity
from nnssl.errors import NnsslError
from tests.conftest import run_folder
from tests.trainers.test_pretraining import metrics

FIRST = Launch("none", ("host 1 100 boot", "host2 1 200 boot"), 0)


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)


def test_a_run_knows_the_torchrun_that_began_it(tmp_path: Path) -> None:
    assert not FIRST.goes_on(tmp_path), "there is no run"
    FIRST.write(tmp_path)
    assert FIRST.goes_on(tmp_path)
    assert replace(FIRST, agents=("host2 1 200 boot", "host3 1 300 boot")).goes_on(tmp_path), (
        "one machine is still there"
    )


def test_a_second_call_of_torchrun_is_not_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default name "none", or with one that stands in somebody's script."""
    second = replace(FIRST, agents=("host 1 101 boot",))
    FIRST.write(tmp_path)
    assert not second.goes_on(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # here the name is the job's
    assert second.goes_on(tmp_path)
    assert not replace(second, identifier="18").goes_on(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"agents": 3}'])
def test_a_damaged_note_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert not FIRST.goes_on(tmp_path)


def test_a_process_has_one_identity() -> None:
    assert process_identity(os.getpid()) == owner()
    assert process_identity(os.getppid()) != owner()


def request(**more: object) -> Request:
    return Request("902", "3d_fullres", "masked_region", device="cpu", **more)  # type: ignore[arg-type]


def test_continuing_makes_no_results_folder(pretraining: Path) -> None:
    results = Path(os.environ["nnUNet_results"])
    results.rmdir()
    with pytest.raises(NnsslError, match=r"nnUNet_results=.* is not a folder.* --c makes no new one"):
        prepare(request(resume=True))
    assert not results.exists()
    prepare(request())
    assert results.is_dir(), "a new run makes it, as nnU-Net does"


def test_a_job_that_was_queued_again_does_not_begin_on_an_empty_disk(
    pretraining: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(request(resume=True))  # a job's first round begins
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(NnsslError, match=r"started before, and now nnUNet_results=.* is empty") as found:
        prepare(request(resume=True))
    assert found.value.exit_code == 2
    assert "\n" not in str(found.value)
    (Path(os.environ["nnUNet_results"]) / "Dataset901_Target").mkdir()
    prepare(request(resume=True))  # of several runs that a job does one after the other, the next


ALONE = Place(0, 1, 0, 1)


def begun_by_somebody(results: Path) -> Path:
    folder = run_folder(results)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"config": make_run_config("masked_region", {}, None, []).model_dump()})
    )
    (folder / "checkpoint_latest.pth").write_bytes(b"of the old run")
    return folder


def test_a_restart_before_the_old_run_was_cleared_still_overwrites_it(pretraining: Path) -> None:
    """The first processes died while they built their networks; their torchrun starts them again."""
    folder = begun_by_somebody(Path(os.environ["nnUNet_results"]))
    again = replace(FIRST, restarts=1)
    assert _prepared_by_the_first(request(overwrite=True), ALONE, again)[0] is False
    with pytest.raises(NnsslError, match="already holds a run"):  # as the first ones were told
        _prepared_by_the_first(request(), ALONE, again)
    FIRST.write(folder)
    for asked in (request(overwrite=True), request(), request(resume=True)):
        assert _prepared_by_the_first(asked, ALONE, again)[0] is True


def test_a_restart_does_not_begin_on_a_disk_that_has_gone(pretraining: Path) -> None:
    """Neither after a restart that torchrun counts nor after machines joined."""
    results, again = Path(os.environ["nnUNet_results"]), replace(FIRST, restarts=1)
    with pytest.raises(NnsslError, match=r"started before, and now nnUNet_results=.* is empty"):
        _prepared_by_the_first(request(overwrite=True), ALONE, again)
    (results / "Dataset901_Target").mkdir()
    assert _prepared_by_the_first(request(overwrite=True), ALONE, again)[0] is True, "it died before it began"
    (results / "Dataset901_Target").rmdir()
    results.rmdir()
    with pytest.raises(NnsslError, match="--c makes no new one"):
        _prepared_by_the_first(request(overwrite=True), ALONE, again)
    assert not results.exists()
    assert _prepared_by_the_first(request(), ALONE, FIRST)[0] is False, "the first start makes it"


@pytest.mark.slow
def test_a_machine_that_joins_does_not_cost_the_run(pretraining: Path, tmp_path: Path) -> None:
    """torchrun starts all processes again, with --overwrite, and counts no restart."""
    folder, port = run_folder(Path(os.environ["nnUNet_results"])), 20000 + os.getpid() % 20000
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc_per_node", "1"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-conf"]
    pretrain = ["-m", "nnssl.cli.pretrain", "902", "3d_fullres", "-m", "masked_region", "--iterations", "2", "-device",
                "cpu", "--batch-size", "2", "--set", "workers=0", "--set", "val_iterations=1", "--set", "save_every=1",
                "--overwrite", "--epochs", "100000"]  # fmt: skip
    agents, logs = [], [tmp_path / "agent_0", tmp_path / "agent_1"]

    def start(log: Path) -> None:
        # both have this machine's name, so they must be told who is the host
        command = [*launcher, f"is_host={int(not agents)},read_timeout=600", *pretrain]
        # torch tells one that joins where the shared store is in the first round only
        environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            agents.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment))

    def says() -> str:
        return "\n".join(log.read_text() for log in logs if log.exists())

    def wait_for(fulfilled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not fulfilled():
            assert time.monotonic() < deadline and all(a.poll() is None for a in agents), says()
            time.sleep(0.2)

    try:
        start(logs[0])
        wait_for((folder / "checkpoint_latest.pth").exists)
        start(logs[1])
        wait_for(lambda: "it goes on from its last checkpoint" in says() and "continuing in epoch" in says())
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)  # it ends its processes, which are sessions of their own
        for agent in agents:
            try:
                agent.wait(60)
            except subprocess.TimeoutExpired:  # it waits for the others
                agent.kill()
    assert [row["epoch"] for row in metrics(folder)] == list(range(len(metrics(folder))))
