"""`nnssl_import`: from what people have on disk to a pool in nnU-Net's raw format."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli.common import natural, parser, positive_int, run
from nnssl.data.cpus import usable_cpus
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.data.importing.report import Report

log = logging.getLogger(__name__)

DESCRIPTION = """Make a pool in nnUNet_raw from folders of NIfTI, NRRD, MHA/MHD or DICOM, nnU-Net datasets, Decathlon tasks.

  nnssl_import ~/export -d 500 -n Pool --channel CT                 everything below a folder
  nnssl_import ~/mr -d 501 -n Pool --channel MR --include "*T2*"    some of it
  nnssl_import 4 Task04_Hippocampus -d 502 -n Pool                  several datasets into one pool
  nnssl_import --acdc ~/ACDC/database -d 27 --pool 500              ACDC as published

Cases are numbered, and nothing of a DICOM header is written. What was taken and what was not, and why, is in
import_report.json. The sources are not changed."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_import", DESCRIPTION)
    p.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="folders, files, or numbers or names of datasets in nnUNet_raw"
    )
    p.add_argument("-d", type=natural, required=True, metavar="ID", dest="dataset_id", help="number of the new dataset")
    p.add_argument("-n", metavar="NAME", dest="name", help="name of the new dataset; cases are NAME_0001, ...")
    p.add_argument(
        "--channel",
        metavar="CT|MR|...",
        help="what the images show; several names, for datasets with several channels, are separated by commas",
    )
    how = p.add_mutually_exclusive_group()
    how.add_argument("--link", action="store_true", help="link files that need no change instead of copying them")
    how.add_argument("--copy", action="store_true", help="write every image; done unless --link is given")
    p.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="only files whose name or path matches; repeatable",
    )
    p.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="no files whose name or path matches; repeatable"
    )
    p.add_argument("--include-labels", action="store_true", help="also take what looks like a label map")
    p.add_argument("--frames", default="all", metavar="all|N", help="frames of a 4D image, N spread evenly over time")
    p.add_argument("--orientation", default="keep", metavar="keep|LPS|...", help="turn all images to one orientation")
    p.add_argument("--with-test", action="store_true", help="also take imagesTs of datasets")
    p.add_argument("--keep-names", action="store_true", help="name cases like their files (never those of DICOM)")
    p.add_argument("--mapping", type=Path, metavar="FILE.csv", help="write which case came from which file")
    p.add_argument("--add", action="store_true", help="add to a dataset that nnssl_import made")
    p.add_argument("-np", type=positive_int, default=min(8, usable_cpus()), metavar="N", help="worker processes")
    p.add_argument("--acdc", type=Path, metavar="FOLDER", help="ACDC as published: the labelled dataset, see its page")
    p.add_argument(
        "--pool", type=natural, metavar="ID", help="with --acdc: also the pool of cine frames, under this number"
    )
    return p


def main_with(a: argparse.Namespace) -> None:
    if a.acdc:
        from nnssl.cli.import_acdc import run_acdc

        run_acdc(a, build_parser().parse_args(["-d", "0"]), _frames(a.frames))
        return
    if a.pool is not None:
        raise NnsslError("--pool goes with --acdc: the number of another dataset's pool is its -d")
    if not a.sources:
        raise NnsslError("nothing to import: give a folder, a file, or the number of a dataset in nnUNet_raw")
    from nnssl.data.importing.find import Selection
    from nnssl.data.importing.orientation import parse_orientation
    from nnssl.data.importing.run import ImportOptions, run_import

    options = ImportOptions(
        sources=tuple(a.sources),
        dataset_id=a.dataset_id,
        name=a.name,
        channels=_channels(a.channel),
        selection=Selection(tuple(a.include), tuple(a.exclude), a.with_test, a.include_labels),
        frames=_frames(a.frames),
        link=a.link,
        orientation=parse_orientation(a.orientation),
        keep_names=a.keep_names,
        add=a.add,
        mapping=a.mapping,
        processes=a.np,
    )
    folder, report = run_import(options)
    show(folder, report, a.dataset_id)
    if a.mapping:
        log.info("which case came from where: %s (it may name patients: keep it to yourself)", a.mapping)


def show(folder: Path, report: Report, dataset_id: int) -> None:
    """The summary on the console."""
    from nnssl.data.importing.summary import summary_lines

    for line in summary_lines(report):
        log.info("%s", line)
    log.info("\n%s", folder)
    log.info("next: nnssl_plan_and_preprocess -d %d --like TARGET   (a pool on its own: --size M)", dataset_id)


def _channels(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise NnsslError(f"--channel '{text}': give a name like CT or MR, several separated by commas")
    return names


def _frames(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise NnsslError(f"--frames {text}: give 'all' or a number of at least 1")


def _terminated(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    before = signal.signal(signal.SIGTERM, _terminated)  # so that the temporary folder is removed
    try:
        run(main_with, build_parser().parse_args())
    finally:
        signal.signal(signal.SIGTERM, before)  # for those who call this from Python, and the processes they fork


if __name__ == "__main__":
    main()
