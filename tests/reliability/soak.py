"""Pretrains for a given time while killing, resuming and injuring its own runs; then says what held.

    python -m tests.reliability.soak --minutes 60 -o soak

Half of the time goes to one long process with bad disks and bad numbers, whose memory and open files are watched after
every epoch; the other half to short runs of all methods, killed at random moments and compared with an uninterrupted twin.
Needs no data and no GPU. Writes soak.json; exit code 1 if anything was lost, differed or grew.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from nnssl.methods import METHODS
from nnssl.transfer import read_encoder
from tests.conftest import make_raw, run_command
from tests.reliability.harness import KILLED, Nursery, arguments_for, metrics, random_death, same_runs

GROWTH_MB = 0.5
"""Memory that may be gained per 100 epochs of the long run, after its first quarter: the median over blocks of epochs. What
leaks does so all the time; an allocator takes some more now and then, when it needs a larger piece, and keeps it."""
BLOCK = 10
LONG = "masked_region"


def make_pool(root: Path) -> None:
    """Two synthetic datasets, planned and preprocessed as in the tests."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(root / name)
    if (root / "preprocessed" / "Dataset902_Pool" / "nnsslPlans_2d_pool.json").is_file():
        return
    make_raw(root / "raw", "Dataset901_Target", 6, 6)
    make_raw(root / "raw", "Dataset902_Pool", 5, 0, seed=1)
    for arguments in (["901", "--size", "S"], ["902", "--like", "901", "-c", "3d_fullres", "2d"]):
        assert run_command("plan_and_preprocess", "-d", *arguments, "-np", "1") == 0


def bad_disk(draw: random.Random, changes: int) -> dict[str, Any]:
    """A disk that fails for some changes of files; not at the start, where that is an error with tests of its own."""
    start = draw.randint(20, changes)
    number = draw.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE))
    return {"disk": {"errno": number, "from": start, "to": start + draw.randrange(3)}}


def name_of(plan: dict[str, Any]) -> str:
    """For counting."""
    if "disk" in plan:
        return f"disk: {errno.errorcode[plan['disk']['errno']]}"
    return next(iter(plan))


class Soak:
    """Counts what happens.

    Args:
        nursery: runs the commands.
        seed: of the moments and faults.
    """

    def __init__(self, nursery: Nursery, seed: int) -> None:
        self.nursery, self.draw = nursery, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.compared: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._changes: dict[str, tuple[int, float]] = {}
        self.number = 0

    def short(self, method: str) -> None:
        """One killed, injured and continued run beside its twin; faults that change the result are not among its own."""
        configuration = ("2d", "3d_fullres")[sorted(METHODS).index(method) % 2]
        plain = self.nursery.folder(method, "plain", configuration)
        if method not in self._changes:
            count = self.nursery.root / "count"
            done = self.nursery.run(*arguments_for(method, "plain", configuration), "--overwrite", count=str(count))
            self._expect(done.code == 0, method, done.text)
            self._changes[method] = int(count.read_text().split()[0]), done.seconds
        self.number += 1
        arguments = arguments_for(method, f"soak{self.number}", configuration)
        for n in range(8):
            changes, seconds = self._changes[method]
            plan = random_death(self.draw, changes, seconds, first=n == 0)
            if self.draw.random() < 0.5:
                plan |= bad_disk(self.draw, changes)
            done = self.nursery.run(*arguments, *(["--c"] if n else []), **plan)
            self.faults.update([name_of({"disk": plan["disk"]})] if "disk" in plan and "cannot" in done.text else [])
            if done.code != KILLED:
                self._expect(done.code in (0, 2) and "Traceback" not in done.text, method, done.text)
                break
            self.kills[name_of({k: v for k, v in plan.items() if k != "disk"})] += 1
        done = self.nursery.run(*arguments, "--c")
        self._expect(done.code == 0, method, done.text)
        folder = self.nursery.folder(method, f"soak{self.number}", configuration)
        try:
            same_runs(plain, folder)
            self.compared[method] += 1
        except AssertionError as error:
            self.wrong.append(f"{method}: differs from its twin: {error}")

    def long(self, seconds: float) -> dict[str, Any]:
        """One process for about so long, with faults; its memory (MB) and open files after each epoch."""
        trial = self.nursery.root / "trial.txt"
        arguments = [*arguments_for(LONG, "trial", save_every=2), "--overwrite"]
        done = self.nursery.run(*arguments, rss=str(trial))
        self._expect(done.code == 0, LONG, done.text)
        each = max(r["seconds"] for r in metrics_with_times(self.nursery.folder(LONG, "trial")))
        epochs = max(20, int(seconds / (1.5 * each)))
        record = self.nursery.root / "rss.txt"
        record.unlink(missing_ok=True)
        bad = sorted(self.draw.sample(range(0, 2 * epochs, 4), epochs // 10))  # never three in a row: that ends a run
        start = 40 + self.draw.randrange(20)
        plan = {"rss": str(record), "nan_steps": bad, "disk": {"errno": errno.ENOSPC, "from": start, "to": start + 3}}
        arguments = [*arguments_for(LONG, "long", save_every=2), "--epochs", str(epochs), "--overwrite"]
        done = self.nursery.run(*arguments, **plan)
        self._expect(done.code == 0, LONG, done.text)
        folder = self.nursery.folder(LONG, "long")
        rows = metrics(folder)
        skipped = sum(row["skipped_steps"] for row in rows)
        self._expect(len(rows) == epochs, LONG, f"{len(rows)} rows of {epochs}")
        self._expect(skipped == len(bad), LONG, f"{skipped} of {len(bad)} bad steps were skipped")
        read_encoder(folder / "encoder.pth")
        self.faults["step without finite numbers"] += len(bad)
        self.faults["disk: ENOSPC"] += 1
        memory, files = zip(
            *([float(v) for v in line.split()] for line in record.read_text().splitlines()), strict=True
        )
        return self._flat(memory, [int(f) for f in files], done.seconds)

    def _flat(self, memory: tuple[float, ...], files: list[int], seconds: float) -> dict[str, Any]:
        settled = memory[len(memory) // 4 :]
        blocks = settled[::BLOCK]
        slope = statistics.median(b - a for a, b in pairwise(blocks)) * 100 / BLOCK if len(blocks) > 1 else 0.0
        self._expect(slope < GROWTH_MB or len(memory) < 100, LONG, f"memory grows by {slope:.2f} MB per 100 epochs")
        self._expect(max(files[1:]) <= files[1] + 1, LONG, f"open files: {files[1]} to {max(files)}")
        return {
            "epochs": len(memory), "seconds": round(seconds), "memory_mb": [settled[0], max(settled), settled[-1]],
            "mb_per_100_epochs": round(slope, 3), "open_files": [files[1], max(files[1:]), files[-1]],
        }  # fmt: skip

    def _expect(self, fine: bool, what: str, text: str) -> None:
        if not fine:
            self.wrong.append(f"{what}: {text[-2000:]}")


def metrics_with_times(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl as they are."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("-o", dest="output", type=Path, default=Path("soak"), help="folder for the pool and the runs")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    begin = time.monotonic()
    make_pool(a.output.resolve())
    nursery = Nursery(a.output.resolve())
    soak = Soak(nursery, a.seed)
    long = soak.long(a.minutes * 30)
    names = sorted(METHODS)
    soak.draw.shuffle(names)
    while time.monotonic() - begin < a.minutes * 60:
        soak.short(names[soak.number % len(names)])
        print(
            f"{(time.monotonic() - begin) / 60:.1f} min: {sum(soak.kills.values())} kills, {len(soak.wrong)} wrong",
            flush=True,
        )
    nursery.close()
    report = {
        "minutes": round((time.monotonic() - begin) / 60, 1), "seed": a.seed, "long_run": long,
        "kills": dict(soak.kills), "faults": dict(soak.faults), "runs_equal_to_their_twin": dict(soak.compared),
        "wrong": soak.wrong,
    }  # fmt: skip
    (a.output / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
