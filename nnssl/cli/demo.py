"""`nnssl_demo`: the whole way on synthetic data, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnssl.cli.common import parser, run
from nnssl.errors import NnsslError

DESCRIPTION = """Make a small synthetic data set and run the real commands on it: plan, pretrain on 40 images without labels,
train nnU-Net on 8 labelled ones with and without the pretrained weights, predict, compare.

  nnssl_demo                      into the folder nnssl_demo, at most 12 minutes on two CPU cores
  nnssl_demo -o my_try --quick    1 to 2 minutes: only shows that everything works

At the end: a table of validation Dice, learning_curves.png, prediction.png, and what to type for your own data."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_demo", DESCRIPTION)
    p.add_argument("-o", dest="output", type=Path, default=Path("nnssl_demo"), metavar="DIR", help="output folder")
    p.add_argument("--quick", action="store_true", help="the same commands on fewer cases and for a few steps only")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier demonstration in the output folder")
    p.add_argument(
        "-device", choices=["cpu", "cuda", "mps"], help="device (cuda if there is one, else cpu, if not set)"
    )
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.demo.story import FULL, QUICK, Story, prepare_folder

    device = pick_device(a.device)
    prepare_folder(a.output, a.overwrite)
    Story(a.output, QUICK if a.quick else FULL, device).run()


def pick_device(wanted: str | None) -> str:
    """The wanted device if it exists; cuda or cpu if none is named."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there[wanted]:
        raise NnsslError(f"-device {wanted}: torch finds no such device here; use -device cpu")
    return wanted


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
