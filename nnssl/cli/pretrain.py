"""`nnssl_pretrain`: the self-supervised stage."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnssl.cli.common import add_settings, natural, parser, positive_float, positive_int, run
from nnssl.errors import NnsslError
from nnssl.methods import method_names
from nnssl.trainers.launch import Request, launch
from nnssl.trainers.process_group import PATIENCE_SECONDS

DESCRIPTION = """Pretrain the plans' encoder on a preprocessed pool.

  nnssl_pretrain 500 3d_fullres -m masked_region
  nnssl_pretrain 500 3d_fullres -m masked_region --set mask_ratio=0.75 --name r75
  nnssl_pretrain 500 3d_fullres -m spark+simclr --set weights=1,0.1 --set spark.mask_ratio=0.7
  nnssl_pretrain 500 3d_fullres -m byol --init .../encoder.pth   go on from another run's encoder
  nnssl_pretrain 500 3d_fullres --with 501 502 -m spark          cases of three datasets that are planned alike
  nnssl_pretrain 500 3d_fullres -m masked_region --c             continue where the run stopped
  nnssl_pretrain 500 3d_fullres -m spark --dry-run --preview views.png

The run folder in nnUNet_results holds encoder.pth, nnunet_init.pth (for nnUNetv2_train -pretrained_weights), config.json,
metrics.jsonl, progress.png and preview.png. SIGTERM and SIGUSR1 save and leave (exit code 128 + signal)."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_pretrain", DESCRIPTION)
    methods = f"one of {', '.join(method_names())}; or a+b, their weighted sum (--set weights=1,0.1)"
    p.add_argument("dataset", metavar="ID", help="dataset number or name")
    p.add_argument("configuration", metavar="CONFIG", help="2d, 3d_fullres, ...")
    p.add_argument(
        "--with",
        dest="with_datasets",
        nargs="+",
        metavar="ID",
        help="further datasets whose cases are in the pool; planned and preprocessed alike (--like one target)",
    )
    p.add_argument("-m", dest="method", required=True, metavar="METHOD", help=methods)
    p.add_argument("-p", dest="plans", default="nnsslPlans", metavar="PLANS", help="plans name")
    p.add_argument(
        "-f", dest="fold", default="all", metavar="FOLD", help="all, or 0-4 to keep that fold's validation cases out"
    )
    p.add_argument("--epochs", type=positive_int, help="epochs (1000 if not set)")
    p.add_argument("--iterations", type=positive_int, help="optimiser steps per epoch (250 if not set)")
    p.add_argument("--batch-size", type=positive_int, help="crops per step over all GPUs (the plans' if not set)")
    p.add_argument("--lr", type=positive_float, help="peak learning rate (the method's if not set)")
    p.add_argument("--seed", type=natural, help="seed of everything random (0 if not set)")
    add_settings(p, "a setting of the method or the run; repeatable")
    p.add_argument("--config", type=Path, metavar="FILE", help="YAML file with such settings")
    p.add_argument(
        "--init",
        metavar="FILE",
        help="weights to start from: encoder.pth of another run or any file nnssl reads, fitted",
    )
    p.add_argument("--name", help="tells two runs of one method apart")
    p.add_argument(
        "--executor",
        choices=["auto", "tiles", "dense"],
        help="spark: compute the encoder on the visible blocks alone (tiles), on whole crops that are masked after every "
        "operation (dense), or the way that is measured to be faster (auto, if not set)",
    )
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="device (the best there is if not set)")
    p.add_argument("-num_gpus", type=positive_int, default=1, metavar="N", help="processes, one per GPU")
    p.add_argument(
        "--rank-timeout",
        type=positive_float,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long the processes wait for one of them that does not answer",
    )
    p.add_argument("--c", dest="resume", action="store_true", help="continue the run from its last checkpoint")
    p.add_argument("--overwrite", action="store_true", help="throw away an existing run of the same name")
    p.add_argument(
        "--snapshots", type=natural, nargs="+", metavar="STEP", help="also write the encoder after these steps"
    )
    p.add_argument("--dry-run", action="store_true", help="show what would run, measure a few steps, write nothing")
    p.add_argument(
        "--preview", type=Path, metavar="FILE", help="with --dry-run: a picture (PNG) of what the network will see"
    )
    return p


def main_with(a: argparse.Namespace) -> int:
    named = ("epochs", "iterations", "batch_size", "lr", "seed", "init", "with_datasets", "snapshots", "executor")
    flags = {k: getattr(a, k) for k in named}
    request = Request(
        dataset=a.dataset,
        configuration=a.configuration,
        method=a.method,
        plans=a.plans,
        fold=a.fold,
        flags=flags,
        sets=tuple(a.sets),
        config_file=a.config,
        name=a.name,
        device=a.device,
        processes=a.num_gpus,
        patience=a.rank_timeout,
        resume=a.resume,
        overwrite=a.overwrite,
        debug=a.debug,
    )
    if a.preview and not a.dry_run:
        raise NnsslError("--preview goes with --dry-run; a real run writes preview.png into its folder")
    if a.dry_run:
        from nnssl.trainers.dry_run import dry_run

        return dry_run(request, a.preview)
    return launch(request)


def main() -> None:
    # nnU-Net's imports ask for the three folders; nothing here needs a display.
    os.environ.setdefault("MPLBACKEND", "agg")
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
