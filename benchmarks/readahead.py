"""Does naming the coming files to the system pay? Batches from files that the system has forgotten, with and without.

  python benchmarks/readahead.py -d 4 [-c 3d_fullres] [-p nnsslPlans] [--workers 0 1] [--ahead 0 1 4] [--rounds 5]
  python benchmarks/readahead.py --synthetic 128 128 128 --patch 64 64 64 --cases 40

Every turn begins with a fresh loader and takes each case once at most (`--batch` crops per step). In `cold` turns the system
is asked to forget the files before (`posix_fadvise`, after `fsync`; Linux), in `warm` turns they are in its memory. `--ms`
is the pause after every batch that a step would take. Prints milliseconds of waiting per batch after the first one (median
of rounds, smallest and largest), and each turn as a share of the one without readahead in the same round. A disk with
memory of its own, and a host's memory below a virtual disk, cannot be made to forget.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch


def main() -> None:
    a = _arguments()
    torch.set_num_threads(1)
    with _pool(a) as (pool, size, what):
        steps = min(a.steps, len(pool) // a.batch)
        print(f"{what}, {steps} batches of {a.batch} per turn, {a.rounds} rounds in turns; ms of waiting per batch")
        for workers, ms in itertools.product(a.workers, a.ms):
            ways = [(cold, ahead) for cold in (True, False) for ahead in a.ahead]
            found: dict[tuple[bool, int], list[float]] = {way: [] for way in ways}
            for turn in range(a.rounds):
                for cold, ahead in ways if turn % 2 == 0 else reversed(ways):
                    found[cold, ahead].append(_turn(pool, size, a.batch, steps, turn, workers, ms / 1000, cold, ahead))
            print(f"workers={workers}, a step of {ms:g} ms")
            for (cold, ahead), values in found.items():
                shares = [x / y for x, y in zip(values, found[cold, a.ahead[0]])]
                print(
                    f"  {'cold' if cold else 'warm'}, readahead={ahead}{1000 * median(values):9.2f} "
                    f"({1000 * min(values):.2f}-{1000 * max(values):.2f}); of readahead={a.ahead[0]} "
                    f"{median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})",
                    flush=True,
                )


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", metavar="ID")
    which.add_argument("--synthetic", type=int, nargs=3, metavar="N", help="voxels per axis of images of noise")
    p.add_argument("-c", default="3d_fullres")
    p.add_argument("-p", default="nnsslPlans")
    p.add_argument("--patch", type=int, nargs=3, default=[64] * 3, help="with --synthetic")
    p.add_argument("--cases", type=int, default=40, help="with --synthetic")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--steps", type=int, default=50, help="per turn, at most a pass over the cases")
    p.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="reading processes")
    p.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 4])
    p.add_argument("--ms", type=float, nargs="+", default=[0.0])
    p.add_argument("--rounds", type=int, default=5)
    return p.parse_args()


@contextlib.contextmanager
def _pool(a: argparse.Namespace) -> Iterator[tuple[Any, list[int], str]]:
    """Pool, crop (Z, Y, X), and a line on them."""
    from nnssl.data.folders import nnunet_folder, read_plans, resolve_dataset
    from nnssl.data.pool import read_pool

    if a.d:
        dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
        configuration = read_plans(dataset, a.p)["configurations"][a.c]
        pool = read_pool(nnunet_folder("nnUNet_preprocessed") / dataset, configuration["data_identifier"])
        patch = [int(n) for n in configuration["patch_size"]]
        yield pool, [1] * (3 - len(patch)) + patch, f"{dataset}, {a.c}: {len(pool)} cases, {_megabytes(pool)}"
        return
    with tempfile.TemporaryDirectory() as folder:
        pool = _synthetic(Path(folder), a.synthetic, a.patch, a.cases)
        yield pool, a.patch, f"{'x'.join(map(str, a.synthetic))}: {len(pool)} cases, {_megabytes(pool)}"


def _megabytes(pool: Any) -> str:
    return f"{median(pool.image_path(i).stat().st_size for i in range(len(pool))) / 1e6:.2f} MB each (median)"


def _synthetic(root: Path, shape: list[int], patch: list[int], count: int) -> Any:
    from nnssl.data.pool import Pool, PoolCase
    from nnssl.data.store import save_case

    rng = np.random.default_rng(0)
    image = np.cumsum(rng.standard_normal((1, *shape)), axis=-1)  # smooth along rows: compressed about as images are
    body = rng.integers(0, min(shape), (1000, 3)).astype(np.int32)
    (root / "data").mkdir()
    for case in range(count):
        rolled, seg = np.roll(image, case, 1), np.zeros((1, *shape), np.int8)
        save_case(root / "data" / f"case_{case}", rolled, seg, body, {}, patch, half=True)
    return Pool(root, tuple(PoolCase(f"case_{i}", "data", tuple(shape), False, body=1000) for i in range(count)))


def _turn(
    pool: Any, size: list[int], batch: int, steps: int, seed: int, workers: int, pause: float, cold: bool, ahead: int
) -> float:
    """Seconds of waiting per batch, the first not counted: it also starts the reading processes."""
    from nnssl.data.loader import CropDataset, crop_loader
    from nnssl.data.sampling import TRAINING, CropSampler

    sampler = CropSampler(pool, size, seed, TRAINING, 0.5)
    dataset = CropDataset(pool, sampler, batch, range(batch), size[0] == 1)
    _touch(pool, forget=cold)
    batches = iter(crop_loader(dataset, range(steps), workers, pin=False, readahead=ahead))
    next(batches)
    waited = 0.0
    for _ in range(steps - 1):
        time.sleep(pause)
        begin = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - begin
    return waited / (steps - 1)


def _touch(pool: Any, forget: bool) -> None:
    """Have the system forget the files of a pool, or read them."""
    for path in (p(i) for i in range(len(pool)) for p in (pool.image_path, pool.body_path)):
        file = os.open(path, os.O_RDONLY)
        if forget:
            os.fsync(file)  # what is not written yet stays
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while os.read(file, 2**20):
                pass
        os.close(file)


if __name__ == "__main__":
    main()
