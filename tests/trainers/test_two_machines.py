"""torchrun over two machines that share a folder: two network namespaces, joined by a cable of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnssl.files import read_json
from nnssl.transfer import torch_files
from tests.conftest import run_folder
from tests.trainers.test_pretraining import metrics

pytestmark = pytest.mark.slow
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that reach each other, and nothing else."""
    if sys.platform != "linux" or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux, iproute2 and root")
    names = tuple(f"nnssl_{os.getpid()}_{i}" for i in range(2))
    if (made := ip("netns", "add", names[0], check=False)).returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield names  # type: ignore[misc]
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def node(machine: str, number: int, log: Path, *arguments: str) -> subprocess.Popen:
    """One machine's torchrun. Both have this machine's name, so they must be told who is the host, and their addresses."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"{ADDRESSES[0]}:29417"]
    meeting += ["--rdzv-conf", f"is_host={int(number == 0)},read_timeout=600", "--local-addr", ADDRESSES[number]]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    pretrain = [
        "-m", "nnssl.cli.pretrain", "902", "3d_fullres", "-m", "masked_region", "--iterations", "2", "-device", "cpu",
        "--batch-size", "3", "--set", "workers=0", "--set", "val_iterations=1", "--set", "save_every=1", "--c", *arguments,
    ]  # fmt: skip
    command = ["ip", "netns", "exec", machine, *launcher, "--max-restarts", "2", *meeting, *pretrain]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def workers_of(agent: int) -> list[int]:
    """Processes that torchrun started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(c) for c in children if "nnssl.cli.pretrain" in Path(f"/proc/{c}/cmdline").read_text()]


def test_two_machines_train_one_run_and_survive_a_death(
    machines: tuple[str, str], pretraining: Path, tmp_path: Path
) -> None:
    logs = [tmp_path / f"node_{i}" for i in range(2)]
    agents = [node(machines[i], i, logs[i], "--epochs", "40") for i in range(2)]
    folder = run_folder(Path(os.environ["nnUNet_results"]))

    def says() -> str:
        return "\n".join(log.read_text() for log in logs)

    def wait_for(what: str, fulfilled: object, seconds: float = 500.0) -> None:
        deadline = time.monotonic() + seconds
        while not fulfilled():  # type: ignore[operator]
            assert any(a.poll() is None for a in agents), f"{what}: {says()}"
            assert time.monotonic() < deadline, f"{what}: {says()}"
            time.sleep(0.2)

    try:
        wait_for("a checkpoint", (folder / "checkpoint_latest.pth").is_file)
        assert read_json(folder / "config.json")["processes"] == 2
        os.kill(workers_of(agents[1].pid)[0], signal.SIGKILL)
        wait_for("a restart", lambda: says().count("continuing in epoch") == 1)
        wait_for("the end", lambda: all(a.poll() is not None for a in agents), 1500)
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    assert [a.returncode for a in agents] == [0, 0], says()
    assert says().count("pretraining done") == 1, "one process logs"
    assert [row["epoch"] for row in metrics(folder)] == list(range(40))
    assert torch_files.load(folder / "encoder.pth")["provenance"]["steps"] == 80
