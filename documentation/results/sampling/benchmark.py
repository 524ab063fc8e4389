"""Start-up time, memory and time per crop of the sampler, for pools of 10 to 100,000 cases; prints a Markdown table.

    python documentation/results/sampling/benchmark.py

Each row is a process of its own. The pool is made up (subjects with more and more frames, 2,000 body positions a case in one
file), because the sampler never looks at a voxel.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnssl.data.pool import Pool, PoolCase, read_pool, write_pool
from nnssl.data.sampling import TRAINING, CropSampler
from nnssl.data.weights import balanced

DRAWS = 5000
HEADER = "| cases | balance | index read, s | sampler ready, s | first crop of a pass, ms | crop, ms | memory, MB |"


def megabytes() -> float:
    """Resident memory of this process; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def row(arguments: tuple[int, str, str]) -> str:
    count, balance, folder = arguments
    root = Path(folder)
    before = megabytes()
    begin = time.perf_counter()
    pool = read_pool(root, f"pool{count}")
    read = time.perf_counter() - begin
    pool = replace(pool, cases=tuple(replace(c, name="case") for c in pool.cases))  # all have the one file of positions
    begin = time.perf_counter()
    sampler = CropSampler(balanced(pool, balance), (64, 128, 128), 0, TRAINING, 0.5)  # type: ignore[arg-type]
    ready = time.perf_counter() - begin
    firsts = []
    for turn in range(5):
        begin = time.perf_counter()
        sampler(turn * count)
        firsts.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    for n in range(DRAWS):
        sampler(n)
    draw = (time.perf_counter() - begin) / DRAWS
    numbers = (
        f"{read:.3f} | {ready:.3f} | {1e3 * sorted(firsts)[2]:.2f} | {1e3 * draw:.3f} | {megabytes() - before:.0f}"
    )
    return f"| {count:,} | `{balance}` | {numbers} |"


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data").mkdir()
        positions = np.random.default_rng(0).integers(0, 100, (2000, 3)).astype(np.int32)
        np.save(root / "data" / "case_body.npy", positions)
        print(HEADER + "\n" + "|---" * 7 + "|")
        for count in (10, 100, 1000, 10_000, 100_000):
            cases = (
                PoolCase(f"case_{i:06d}", "data", (120, 512, 512), False, f"{i:032x}", 2000, f"subject_{int(i**0.5)}")
                for i in range(count)
            )
            write_pool(Pool(root, tuple(cases)), f"pool{count}")
            for balance in ("case", "subject"):
                with context.Pool(1) as one:
                    print(one.map(row, [(count, balance, folder)])[0], flush=True)


if __name__ == "__main__":
    main()
