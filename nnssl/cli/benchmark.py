"""`nnssl_benchmark`: how fast a method trains here, and which of two settings is faster."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnssl.cli.common import add_settings, parser, positive_int, run
from nnssl.errors import NnsslError
from nnssl.methods import method_names

log = logging.getLogger(__name__)

UNLIMITED = 1000
"""Columns of what is no terminal."""

DESCRIPTION = """Measure training steps on this machine: speed, where the time goes, memory, hours for a whole run.

  nnssl_benchmark -d 500 -c 3d_fullres -m spark
  nnssl_benchmark -d 500 -c 3d_fullres -m spark --set executor=tiles --against executor=dense
  nnssl_benchmark -d 500 -c 3d_fullres -m byol --set batch_size=4 --against batch_size=8 --no-data
  nnssl_benchmark --synthetic --size L --patch 160 160 160 -c 3d_fullres -m spark masked_region --json speed.json

Several methods, and the two settings of --set and --against, take turns in one run. Nothing is trained or kept."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_benchmark", DESCRIPTION)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", metavar="ID", help="dataset, planned and preprocessed")
    which.add_argument("--synthetic", action="store_true", help="make a small data set of noise for the measurement")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration: 2d, 3d_fullres, ...")
    methods = f"one or several of {', '.join(method_names())}; or sums a+b"
    p.add_argument("-m", required=True, nargs="+", metavar="METHOD", help=methods)
    p.add_argument("-p", metavar="PLANS", help="plans of the dataset (nnsslPlans if not set)")
    add_settings(p, "a setting, as of nnssl_pretrain; repeatable")
    p.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="K=V",
        help="measure also with this in addition to --set, or instead of the same key there; repeatable",
    )
    p.add_argument("--no-data", action="store_true", help="read one batch only and use it in every step")
    p.add_argument("--size", choices=["S", "M", "L", "XL"], help="with --synthetic: network (S if not set)")
    patch = "with --synthetic: patch (the size's; on a CPU a small one)"
    p.add_argument("--patch", type=positive_int, nargs="+", metavar="N", help=patch)
    p.add_argument("--channels", type=positive_int, metavar="N", help="with --synthetic: image channels (1 if not set)")
    p.add_argument("--rounds", type=positive_int, default=5, metavar="N", help="turns of each setting")
    p.add_argument("--steps", type=positive_int, default=5, metavar="N", help="timed steps per turn")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to this file")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.benchmark.run import Timing, benchmark
    from nnssl.benchmark.table import as_lines
    from nnssl.files import write_json
    from nnssl.trainers.launch import Request, pick_device

    _check(a)
    device = pick_device(a.device).type
    with _dataset(a, device) as dataset:
        requests = [
            Request(dataset, a.c, method, plans=a.p or "nnsslPlans", sets=tuple(a.sets), device=device, debug=a.debug)
            for method in a.m
        ]
        found = benchmark(requests, a.against, Timing(a.rounds, a.steps, not a.no_data))
    for line in as_lines(found, shutil.get_terminal_size((UNLIMITED, 0)).columns):
        log.info("%s", line)
    if a.json:
        write_json(found, a.json)
        log.info("wrote %s", a.json)


def _check(a: argparse.Namespace) -> None:
    """Refuse before minutes of measuring."""
    if not a.synthetic:
        given = [f"--{n}" for n in ("size", "patch", "channels") if getattr(a, n) is not None]
        if given:
            raise NnsslError(f"{given[0]} goes with --synthetic; a dataset has its own")
    elif a.p:
        raise NnsslError("-p goes with -d; --synthetic makes its own plans")
    if a.json and a.json.is_dir():
        raise NnsslError(f"--json {a.json} is a folder: name a file")
    if a.json and not os.access(a.json.absolute().parent, os.W_OK):
        raise NnsslError(f"--json {a.json}: there is no folder {a.json.absolute().parent} to write to")
    if len(set(a.m)) < len(a.m):
        raise NnsslError("-m: name every method once")
    for text in a.against:
        if "=" not in text:
            raise NnsslError(f"--against {text}: write it as key=value")
    if a.against and set(a.against) <= set(a.sets):
        raise NnsslError("--against says nothing that --set does not say: both would measure the same")
    from nnssl.trainers.run_config import make_run_config

    for method in a.m:
        for sets in (a.sets, [*a.sets, *a.against]):
            make_run_config(method, {}, None, sets)


@contextmanager
def _dataset(a: argparse.Namespace, device: str) -> Iterator[str]:
    if not a.synthetic:
        yield a.d
        return
    from nnssl.benchmark.synthetic import default_patch, synthetic_dataset

    size = a.size or "S"
    patch = a.patch or default_patch(a.c, size, device)
    if a.patch is None and patch != (usual := default_patch(a.c, size, "cuda")):
        small, large = ("x".join(str(n) for n in p) for p in (patch, usual))
        log.info("patch %s, because this is a CPU; on a GPU %s. --patch sets another", small, large)
    with synthetic_dataset(a.c, size, patch, a.channels or 1) as name:
        yield name


def main() -> None:
    # nnU-Net's imports ask for the three folders; nothing here needs a display.
    os.environ.setdefault("MPLBACKEND", "agg")
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
