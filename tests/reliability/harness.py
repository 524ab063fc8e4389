"""Starts, kills and continues runs of `nnssl_pretrain`, and compares two runs file by file."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.trainers.methods import trainer_for

from nnssl.transfer import torch_files
from tests.conftest import REPOSITORY
from tests.trainers.test_pretraining import TIMES, metrics, same_tensors

KILLED = -9


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    seconds: float
    text: str


class Nursery:
    """A process that runs `nnssl_pretrain` in forked children; see nursery.py.

    Args:
        root: holds raw, preprocessed and results.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "results").mkdir(exist_ok=True)
        folders = {f"nnUNet_{n}": str(root / n) for n in ("raw", "preprocessed", "results")}
        plugin = {"nnUNet_extTrainer": str(REPOSITORY / "nnssl" / "nnunet_plugin")}
        quiet = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "nnUNet_compile": "f", "TMPDIR": str(root)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **folders, **plugin, **quiet},
        )
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return json.loads(line)

    def run(self, *arguments: str, **plan: Any) -> Done:
        """Run the command to its end, whatever that is."""
        assert self._process.stdin is not None
        log = self.root / "log.txt"
        log.unlink(missing_ok=True)
        plan.setdefault("watch", str(self.root / "results"))
        self._process.stdin.write(json.dumps({"arguments": arguments, "log": str(log), "plan": plan}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Done(answer["code"], answer["seconds"], log.read_text() if log.is_file() else "")

    def folder(self, method: str, name: str, configuration: str = "3d_fullres") -> Path:
        """A run's folder."""
        trainer = trainer_for(method, name).__name__
        return self.root / "results" / "Dataset902_Pool" / f"{trainer}__nnsslPlans__{configuration}" / "fold_all"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def arguments_for(method: str, name: str, configuration: str = "3d_fullres", **settings: Any) -> list[str]:
    """A tiny run: 3 epochs of 2 steps, a checkpoint after each, two snapshots."""
    values = {"val_iterations": 1, "workers": 0, "save_every": 1, **settings}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    always_alike = ["--executor", "dense"]  # a measured choice may come out differently the next time
    batch = "4" if configuration == "2d" else "2"
    return ["902", configuration, "-m", method, *always_alike, "-device", "cpu", "--iterations", "2", "--epochs", "3",
            "--batch-size", batch, "--snapshots", "3", "6", "--name", name, *sets]  # fmt: skip


def same_runs(a: Path, b: Path) -> None:
    """Two finished runs hold the same, bit for bit, but for times and for what the logs tell."""

    def files(folder: Path) -> set[str]:
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "training_log" not in p.name}

    assert files(a) == files(b)
    assert "encoder.pth" in files(a)
    assert metrics(a) == metrics(b)
    assert [row["epoch"] for row in metrics(b)] == list(range(len(metrics(b))))
    final, other = (torch_files.load(f / "checkpoint_final.pth") for f in (a, b))
    for content in (final, other):
        content["history"] = [{k: v for k, v in row.items() if k not in TIMES} for row in content["history"]]
    assert final.keys() == other.keys()
    for key in final:
        assert alike(final[key], other[key]), key
    for name in sorted(n for n in files(a) if n.endswith(".pth") and not n.startswith("checkpoint")):
        assert alike(torch_files.load(a / name), torch_files.load(b / name)), name
    assert (a / "preview.png").read_bytes() == (b / "preview.png").read_bytes()
    assert (b / "progress.png").stat().st_size > 5000


def alike(a: Any, b: Any) -> bool:
    """`same_tensors`, with NaN equal to NaN (gradient norms that were never measured)."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if hasattr(a, "dtype") and a.dtype.is_floating_point:
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    return same_tensors(a, b)


def random_death(draw: random.Random, changes: int, seconds: float, first: bool) -> dict[str, Any]:
    """A moment to be killed at: before any change of a file, within a torch file, within a step, or at any time.

    Args:
        draw: source of randomness.
        changes: of files that a whole run makes.
        seconds: that it takes.
        first: False for a continuation, which has less to do and should die all the same.
    """
    kind = draw.choice(("kill_at_event", "kill_at_event", "kill_in_write", "kill_in_step", "kill_after"))
    if kind == "kill_after":
        return {kind: draw.uniform(0.0, seconds if first else seconds / 3)}
    most = {"kill_at_event": changes, "kill_in_write": 7, "kill_in_step": 6}
    later = {"kill_at_event": changes // 3, "kill_in_write": 2, "kill_in_step": 2}
    return {kind: draw.randint(1, (most if first else later)[kind])}


def killed_and_continued(nursery: Nursery, arguments: list[str], deaths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the command, killed once in each of the given ways and continued with `--c`, to its end.

    Returns:
        The deaths that it died; a run may reach its end before a moment comes.
    """
    died = []
    for n, plan in enumerate(deaths):
        done = nursery.run(*arguments, *(["--c"] if n else []), **plan)
        assert done.code in (0, KILLED), (plan, done.text)
        if done.code == KILLED:
            died.append(plan)
    done = nursery.run(*arguments, "--c")
    assert done.code == 0, (died, done.text)
    return died
