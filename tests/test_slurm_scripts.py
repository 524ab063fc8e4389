"""The scripts of the how-to on SLURM: with a scheduler that only starts processes and writes down what it was asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnssl.transfer import torch_files
from tests.conftest import REPOSITORY, run_folder
from tests.trainers.test_pretraining import metrics

SCRIPTS = REPOSITORY / "documentation" / "how-to" / "slurm"
# starts SLURM_NTASKS copies, hands signals on, ends those that have not left --wait=seconds after the first, and returns
# the highest exit code: what srun is documented to do
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
    if [[ "$1" == --wait=* ]]; then limit=${LIMIT:-${1#--wait=}}; fi
    shift
done
tasks=()
all_run() { for task in "${tasks[@]}"; do kill -0 "$task" 2>/dev/null || return 1; done; }
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}" 2>/dev/null' USR1
(while all_run; do sleep 0.1; done; sleep "${limit:-86400}"; kill "${tasks[@]}") >/dev/null 2>&1 &
watch=$!
highest=0
for task in "${tasks[@]}"; do
    while true; do wait "$task"; code=$?; kill -0 "$task" 2>/dev/null || break; done
    ((code > highest)) && highest=$code
done
kill "$watch"
exit "$highest"
"""
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo localhost; else echo "$@" >>"$ASKED"; fi\n'
SBATCH = '#!/bin/bash\necho "$@" >>"$ASKED"\nwc -l <"$ASKED"\n'


@pytest.mark.parametrize("script", sorted(p.name for p in SCRIPTS.iterdir()))
def test_scripts_are_valid(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPTS / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of SLURM on the PATH; the file that holds what they were asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    asked = tmp_path / "asked"
    monkeypatch.setenv("ASKED", str(asked))
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    job = {"JOB_ID": str(os.getpid()), "NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_NUM_NODES": "1", "GPUS_ON_NODE": "2"}
    for key, value in {**job, "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    return asked


QUICK = ["902", "3d_fullres", "-m", "masked_region", "--iterations", "2", "-device", "cpu", "--batch-size", "2",
         "--set", "workers=0", "--set", "val_iterations=1", "--set", "save_every=1"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("script", ["pretrain.sbatch", "pretrain_torchrun.sbatch"])
def test_the_end_of_a_jobs_time_saves_and_queues_again(script: str, scheduler: Path, pretraining: Path) -> None:
    folder = run_folder(Path(os.environ["nnUNet_results"]))
    command = ["bash", str(SCRIPTS / script), *QUICK, "--epochs", "100000"]
    log = scheduler.with_name("log")
    with log.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 500
        while not (folder / "checkpoint_latest.pth").exists():
            assert job.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        os.kill(job.pid, signal.SIGUSR1)  # as --signal=B:USR1@300 does: the batch script only
        assert job.wait(timeout=300) == 0, log.read_text()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert scheduler.read_text() == f"requeue {os.environ['SLURM_JOB_ID']}\n"
    said = log.read_text()
    assert "stopped on request" in said
    assert "queued again" in said
    saved = torch_files.load(folder / "checkpoint_latest.pth")
    assert (saved["epoch"], saved["step"]) > (0, 0)
    assert len(saved["history"]) == saved["epoch"] == len(metrics(folder))


@pytest.mark.parametrize(
    ("left_with", "code", "again"),
    [
        ("0 0", 0, False),
        ("2 2", 2, False),
        ("2 3", 2, False),  # one said what must be mended, the other only lost it
        ("2 KILL", 2, False),
        ("2 waits", 2, False),  # on a GPU, for the one that has left
        ("1 3", 1, False),  # not foreseen: a traceback
        ("3 3", 0, True),
        ("3 KILL", 0, True),
        ("3 SEGV", 0, True),
        ("3 BUS", 0, True),
        ("3 waits", 0, True),
        ("138 138", 0, True),
    ],
)
def test_what_is_queued_again(
    left_with: str, code: int, again: bool, scheduler: Path, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever srun makes of the codes of its tasks."""
    pretrain = scheduler.parent / "bin" / "nnssl_pretrain"
    pretrain.write_text(
        "#!/bin/bash\nends=($LEFT_WITH)\nend=${ends[$RANK]}\ncase $end in\n"
        "waits) exec sleep 600 ;;\n[A-Z]*) kill -s $end $$ ;;\n*) exit $end ;;\nesac\n"
    )
    pretrain.chmod(0o755)
    monkeypatch.setenv("LEFT_WITH", left_with)
    monkeypatch.setenv("LIMIT", "0.2")
    command = ["bash", str(SCRIPTS / "pretrain.sbatch"), "902"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == code
    assert scheduler.exists() == again
    if again:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "50")
        scheduler.unlink()
        assert subprocess.run(command, capture_output=True, timeout=60).returncode > 0
        assert not scheduler.exists(), "often enough"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "again"), [("sys.exit(2)", 2, False), ("os.kill(os.getpid(), 9)", 0, True), ("1 / 0", 1, False)]
)
def test_what_is_queued_again_under_torchrun(
    end: str, code: int, again: bool, scheduler: Path, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts its processes again three times first, and leaves with 1 whatever they left with."""
    module = nnunet_folders / "nnssl" / "cli" / "pretrain.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"import os, sys\n{end}\n")
    monkeypatch.chdir(nnunet_folders)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    command = ["bash", str(SCRIPTS / "pretrain_torchrun.sbatch"), "902"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == code, done.stdout + done.stderr
    assert scheduler.exists() == again, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_setting_is_not_queued_again(scheduler: Path, pretraining: Path) -> None:
    command = ["bash", str(SCRIPTS / "pretrain.sbatch"), *QUICK, "--epochs", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not scheduler.exists()


def test_preprocessing_is_four_jobs_that_wait_for_each_other(scheduler: Path) -> None:
    command = ["bash", str(SCRIPTS / "preprocess.sh"), "500", "4", "--like", "27"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    measure, plan, cases, last = scheduler.read_text().splitlines()
    assert "--array=0-3" in measure and "--no_pp --shard $SLURM_ARRAY_TASK_ID/4" in measure
    assert "afterany:1 " in plan and "--no_pp --like 27" in plan
    assert "afterok:2 " in cases and "--only_pp --shard $SLURM_ARRAY_TASK_ID/4" in cases
    assert "afterany:3 " in last and last.endswith("--only_pp")


def test_preprocessing_jobs_know_plans_and_configurations(scheduler: Path) -> None:
    flags = ["--size", "S", "-p", "ourPlans", "--spacing", "2", "1", "1", "-c", "2d", "3d_fullres", "--like", "27"]
    command = ["bash", str(SCRIPTS / "preprocess.sh"), "500", "4", *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    measure, plan, cases, last = scheduler.read_text().splitlines()
    assert "ourPlans" not in measure
    assert plan.endswith(f"--no_pp {' '.join(flags)}")
    assert "--only_pp -p ourPlans -c 2d 3d_fullres --shard $SLURM_ARRAY_TASK_ID/4" in cases
    assert last.endswith("--only_pp -p ourPlans -c 2d 3d_fullres")
