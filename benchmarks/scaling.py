"""How start-up, memory and steps grow: with the pool, the crop, the batch, the mask ratio and the number of processes.

  python benchmarks/scaling.py pool [--cases 10 1000 100000] [--edges 32 96] [--crops 100]
  python benchmarks/scaling.py steps [--edges 16 24 32] [--batches 1 2 4] [--ratios 0.5 0.75] [--rounds 3]
  python benchmarks/scaling.py ranks [--edge 24] [--batch 2] [--steps 5] [--rounds 3]
  python benchmarks/scaling.py gpus --ms 80 --parameters 102e6 [--within 300] [--between 50] [--per-node 8]

pool    a pool of hard links to one preprocessed case of edge^3 voxels: seconds to read its index, to take its signature and
        to make sampler and dataset; memory of all that; microseconds per drawn place; milliseconds per crop read, from new
        cases and from ten that are open
steps   -m spark, tiles and dense in turns: milliseconds per crop, forward and backward
ranks   the same step in one process and in two that share their gradients (gloo), same crops per process, in turns
gpus    computed, not measured: a step of --ms per GPU and a ring all-reduce of 4 bytes per parameter, with bandwidths in
        GB/s per GPU within a node and per node between nodes; once hidden behind two thirds of the step (the backward
        pass), once not

Times of pool and steps are processor time of one thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import multiprocessing as mp

LINKS = 50_000
"""Names per file: file systems limit hard links (ext4: 65,000)."""
SUFFIXES = (".b2nd", "_body.npy")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_subparsers(required=True)
    pool = which.add_parser("pool")
    pool.add_argument("--cases", type=int, nargs="+", default=[10, 1000, 100_000])
    pool.add_argument("--edges", type=int, nargs="+", default=[32, 96])
    pool.add_argument("--crops", type=int, default=100)
    pool.set_defaults(run=_pools)
    steps = which.add_parser("steps")
    steps.add_argument("--edges", type=int, nargs="+", default=[16, 24, 32])
    steps.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    steps.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.75])
    steps.add_argument("--rounds", type=int, default=3)
    steps.set_defaults(run=_steps)
    ranks = which.add_parser("ranks")
    ranks.add_argument("--edge", type=int, default=24)
    ranks.add_argument("--batch", type=int, default=2, help="crops per process")
    ranks.add_argument("--steps", type=int, default=5)
    ranks.add_argument("--rounds", type=int, default=3)
    ranks.set_defaults(run=_ranks)
    gpus = which.add_parser("gpus")
    gpus.add_argument("--ms", type=float, required=True, help="of a step on one GPU")
    gpus.add_argument("--parameters", type=float, required=True)
    gpus.add_argument("--within", type=float, default=300.0)
    gpus.add_argument("--between", type=float, default=50.0)
    gpus.add_argument("--per-node", type=int, default=8)
    gpus.set_defaults(run=_gpus)
    a = p.parse_args()
    torch.set_num_threads(1)
    a.run(a)


# -------------------------------------------------------------------- pool


def _pools(a: argparse.Namespace) -> None:
    print("voxels    cases    index s   signature s   sampler s   memory MiB   place us   crop ms   crop again ms")
    for edge, count in itertools.product(a.edges, a.cases):
        with tempfile.TemporaryDirectory() as folder:
            _write_pool(Path(folder), edge, count)
            here, there = mp.get_context("fork").Pipe(False)
            child = mp.get_context("fork").Process(target=_measure_pool, args=(Path(folder), a.crops, there))
            child.start()
            row = here.recv()
            child.join()
        print(f"{edge}^3{count:>10,}  " + "  ".join(f"{value:>10.3f}" for value in row), flush=True)


def _write_pool(root: Path, edge: int, count: int) -> None:
    from nnssl.data.pool import Pool, PoolCase, write_pool
    from nnssl.data.store import save_case

    folder, shape = root / "cases", (edge,) * 3
    folder.mkdir()
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    body = rng.integers(0, edge, (1000, 3))
    seg = np.zeros((1, *shape), dtype=np.int8)
    for first in range(0, count, LINKS):
        save_case(root / f"case{first}", image, seg, body, {}, [min(edge, 32)] * 3, True)
        for number in range(first, min(first + LINKS, count)):
            for suffix in SUFFIXES:
                os.link(root / f"case{first}{suffix}", folder / f"case_{number:06d}{suffix}")
    cases = [PoolCase(f"case_{n:06d}", "cases", shape, False, f"{n:032x}", len(body)) for n in range(count)]
    write_pool(Pool(root, tuple(cases)), "cases")


def _measure_pool(root: Path, crops: int, answer: Any) -> None:
    from nnssl.benchmark.machine import PeakMemory
    from nnssl.data.loader import CropDataset
    from nnssl.data.pool import read_pool
    from nnssl.data.sampling import TRAINING, CropSampler

    peak = PeakMemory(torch.device("cpu"))
    marks = [time.process_time()]
    pool = read_pool(root, "cases")
    marks.append(time.process_time())
    assert pool.signature
    marks.append(time.process_time())
    sampler = CropSampler(pool, (16, 16, 16), 0, TRAINING, 0.5)
    dataset = CropDataset(pool, sampler, 1, range(1), False)
    sampler(0)  # makes the first pass
    marks.append(time.process_time())
    memory = (peak.peak() or 0) / 2**20
    place = _seconds(lambda: [sampler(n) for n in range(crops)]) / crops
    first = _seconds(lambda: [dataset[n] for n in range(crops)]) / crops
    again = _seconds(lambda: [dataset[n % 10] for n in range(crops)]) / crops
    parts = [b - a for a, b in itertools.pairwise(marks)]
    answer.send([*parts, memory, 1e6 * place, 1e3 * first, 1e3 * again])


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


# -------------------------------------------------------------------- steps


def _steps(a: argparse.Namespace) -> None:
    print("edge  batch  hidden   dense ms per crop   tiles ms per crop   tiles/dense (smallest-largest)")
    for edge, batch, ratio in itertools.product(a.edges, a.batches, a.ratios):
        method = _spark(edge, ratio)
        times: dict[str, list[float]] = {"dense": [], "tiles": []}
        for turn in range(a.rounds + 1):
            for name in times:
                times[name].append(_step(method, batch, name) / batch)
            if turn == 0:
                times = {name: [] for name in times}  # allocates, chooses algorithms
        pairs = [t / d for t, d in zip(times["tiles"], times["dense"])]
        dense, tiles = (1000 * median(times[name]) for name in ("dense", "tiles"))
        print(
            f"{edge:>4}{batch:>7}{ratio:>8.0%}{dense:>19.1f}{tiles:>20.1f}   "
            f"{median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})",
            flush=True,
        )


def _spark(edge: int, ratio: float) -> Any:
    from unet import build_method

    return build_method("spark", [edge] * 3, [16, 32, 64], {"mask_ratio": ratio}).train()


def _views(method: Any, batch: int) -> Any:
    from nnssl.trainers.trial import random_crops

    crops = random_crops(method, batch, torch.device("cpu"))
    return method.views(crops, torch.Generator().manual_seed(0))


def _step(method: Any, batch: int, executor: str) -> float:
    method.use_executor(executor)
    method.zero_grad(set_to_none=True)
    views = _views(method, batch)
    return _seconds(lambda: method(views).total.backward())


# -------------------------------------------------------------------- ranks


def _ranks(a: argparse.Namespace) -> None:
    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    here, there = mp.get_context("fork").Pipe(False)
    processes = [mp.get_context("fork").Process(target=_rank, args=(r, port, a, there)) for r in range(2)]
    for process in processes:
        process.start()
    rounds, parameters = here.recv()
    for process in processes:
        process.join()
    what = f"spark, dense, crops of {a.edge}^3, {a.batch} per process, {parameters:,} parameters"
    print(f"{what}; {a.rounds} rounds of {a.steps} steps")
    for title, index in (("processor time", 0), ("time", 1)):
        alone, shared = ([r[i][index] for r in rounds] for i in (0, 1))
        ratios = [x / y for x, y in zip(shared, alone)]
        print(
            f"  {title:<15}alone {1000 * median(alone):.1f} ms, one of two {1000 * median(shared):.1f} ms per step: "
            f"{median(ratios):.2f} times ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    reduced = [1000 * r[2][1] for r in rounds]
    print(f"  all-reduce of the gradients alone {median(reduced):.1f} ms ({min(reduced):.1f}-{max(reduced):.1f})")


def _rank(rank: int, port: int, a: argparse.Namespace, answer: Any) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo")
    method = _spark(a.edge, 0.6)
    shared = torch.nn.parallel.DistributedDataParallel(_spark(a.edge, 0.6))
    gradients = torch.zeros(sum(p.numel() for p in method.parameters()))
    views = _views(method, a.batch)
    ways = [_step_of(method, views), _step_of(shared, views), lambda: dist.all_reduce(gradients)]
    rounds = [[_timed(way, a.steps) for way in ways] for _ in range(a.rounds + 1)][1:]
    if rank == 0:
        answer.send((rounds, gradients.numel()))
    dist.barrier()
    dist.destroy_process_group()


def _step_of(network: Any, views: Any) -> Callable[[], Any]:
    def step() -> None:
        network.zero_grad(set_to_none=True)
        network(views).total.backward()

    return step


def _timed(way: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Processor and other seconds per call, both processes beginning together."""
    dist.barrier()
    begin, process = time.perf_counter(), time.process_time()
    for _ in range(steps):
        way()
    return (time.process_time() - process) / steps, (time.perf_counter() - begin) / steps


# -------------------------------------------------------------------- gpus


def _gpus(a: argparse.Namespace) -> None:
    gigabytes = 4 * a.parameters / 1e9
    print(
        f"computed: {a.ms:g} ms per step on a GPU, {gigabytes:.2f} GB of gradients, {a.within:g} GB/s per GPU within a node"
    )
    print(f"of {a.per_node}, {a.between:g} GB/s per node between nodes; ring within nodes, then between nodes")
    print("GPUs   all-reduce ms   step ms, hidden   step ms, not hidden   efficiency, hidden / not")
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        inside, nodes = min(gpus, a.per_node), max(1, gpus // a.per_node)
        reduce = 2 * (inside - 1) / inside * gigabytes / a.within + 2 * (nodes - 1) / nodes * gigabytes / a.between
        milliseconds = 1000 * reduce
        hidden, bare = max(a.ms, a.ms / 3 + milliseconds), a.ms + milliseconds
        print(
            f"{gpus:>4}{milliseconds:>16.1f}{hidden:>18.1f}{bare:>22.1f}   {a.ms / hidden:>18.0%} / {a.ms / bare:.0%}"
        )


if __name__ == "__main__":
    main()
