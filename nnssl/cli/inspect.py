"""`nnssl_inspect`: what a file of weights holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnssl.cli.common import parser, run

DESCRIPTION = (
    """Print what a file holds: encoder.pth, nnunet_init.pth or a pretraining checkpoint. Never runs code from it."""
)


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_inspect", DESCRIPTION)
    p.add_argument("file", type=Path, metavar="FILE", help="the file")
    p.add_argument("--keys", action="store_true", help="list every tensor with its shape")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.transfer.describe import describe_file

    for line in describe_file(a.file, a.keys):
        print(line)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
