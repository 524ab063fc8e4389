"""`nnssl_study`: does pretraining help, with how few labels, and how much sooner?"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnssl.cli.common import check_folder, natural, parser, positive_int, run
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

DESCRIPTION = """Compare initialisations on a labelled nnU-Net dataset: with few labels, over several draws, honestly.

  nnssl_study init -d 27 -p nnsslPlans -c 3d_fullres --init spark=RUN/encoder.pth --counts 3 10 -o study.yaml
  nnssl_study init -d 27 -c 2d --labels cases.csv --target group -m linear --counts 20 40 -o study.yaml    classification
  nnssl_study run study.yaml -o STUDY --dry-run      what would run, and how long it takes
  nnssl_study run study.yaml -o STUDY                again to go on after an interruption
  nnssl_study report STUDY                           report.html, tables and figures; also while it runs"""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_study", DESCRIPTION)
    commands = p.add_subparsers(dest="what", required=True, metavar="{init,run,report}")
    _add_init(commands.add_parser("init", help="write a commented study file", allow_abbrev=False))
    _add_run(commands.add_parser("run", help="run a study, or go on with it", allow_abbrev=False))
    report = commands.add_parser("report", help="write the report of a study", allow_abbrev=False)
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of the study")
    report.add_argument(
        "--metric", help="that figures and tables show; default: dice, or balanced_accuracy or r2 of a classification"
    )
    return p


def _add_init(p: argparse.ArgumentParser) -> None:
    p.add_argument("-d", required=True, metavar="ID", help="labelled target, planned and preprocessed")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="plans of the target")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration of the target")
    p.add_argument(
        "-f", default=0, type=natural, metavar="FOLD", help="its validation cases become test and validation"
    )
    p.add_argument(
        "--init", nargs="+", default=[], metavar="NAME=FILE", help="pretrained weights, each with a name for the report"
    )
    p.add_argument("--counts", nargs="+", type=positive_int, default=[3, 10, 40], metavar="N", help="labelled cases")
    p.add_argument("--unit", choices=["case", "patient", "slice"], default="case", help="what the counts count")
    p.add_argument("--seeds", type=positive_int, default=5, metavar="N", help="number of draws")
    p.add_argument("--steps", type=positive_int, default=1000, metavar="N", help="optimiser steps of every training")
    p.add_argument("--test-cases", type=positive_int, metavar="N", help="default: three quarters of the fold's")
    p.add_argument("--stock", action="store_true", help="also the stock nnUNetTrainer")
    classes = p.add_argument_group("classification instead of segmentation")
    classes.add_argument("--labels", type=Path, metavar="FILE.csv", help="table with a column case and the target")
    classes.add_argument("--target", metavar="COLUMN", help="class or quantity to predict")
    classes.add_argument("--group", metavar="COLUMN", help="patient; default: what the dataset knows of its subjects")
    classes.add_argument("--npz", type=Path, metavar="FILE", help="MedMNIST-style images and labels instead of a table")
    classes.add_argument("-m", choices=["finetune", "linear", "mlp", "knn"], default="finetune", help="how")
    p.add_argument("--overwrite", action="store_true", help="replace the file")
    p.add_argument("-o", required=True, type=Path, metavar="STUDY.yaml", help="file to write")


def _add_run(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", type=Path, metavar="STUDY.yaml", help="as `nnssl_study init` writes it")
    p.add_argument("-o", required=True, type=Path, metavar="DIR", help="folder of the study")
    p.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="trainings at a time on this machine")
    p.add_argument("--job", default="0/1", metavar="i/n", help="do part i (from 0) of n: for job arrays")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("--dry-run", action="store_true", help="measure a few steps, show what would run, train nothing")


def main_with(a: argparse.Namespace) -> int | None:
    if a.what == "init":
        _init(a)
        return None
    if a.what == "run":
        return _run(a)
    from nnssl.evaluate.report import write_report

    log.info("%s", write_report(a.folder, a.metric))
    return None


def _init(a: argparse.Namespace) -> None:
    from nnssl.evaluate.study.commented import write_commented
    from nnssl.evaluate.study.propose import propose
    from nnssl.evaluate.study.propose_classification import propose_classification

    if a.o.exists() and not a.overwrite:
        raise NnsslError(f"{a.o} exists: choose another name with -o, or give --overwrite")
    shared = {
        "dataset": a.d, "plans": a.p, "configuration": a.c, "fold": a.f, "inits": [_named(text) for text in a.init],
        "counts": a.counts, "unit": a.unit, "seeds": a.seeds, "steps": a.steps, "test_cases": a.test_cases, "name": a.o.stem,
    }  # fmt: skip
    if _is_classification(a):
        asked = {"labels": a.labels, "target": a.target, "group": a.group, "npz": a.npz, "method": a.m}
        study, notes = propose_classification(**shared, **asked)
    else:
        study, notes = propose(**shared, stock=a.stock)
    write_commented(study, a.o)
    for note in notes:
        log.info("%s", note)
    trainings = len(study.inits) * len(study.counts) * len(study.seeds)
    length = f" of {study.steps} steps" if study.stepwise else ""
    log.info("%s: %d trainings%s; next:", a.o, trainings, length)
    log.info("  nnssl_study run %s -o %s --dry-run", a.o, a.o.with_suffix(""))


def _is_classification(a: argparse.Namespace) -> bool:
    """Whether labels of images are given; refuses halves of that."""
    if a.labels is None and a.npz is None:
        given = [name for name, value in (("--target", a.target), ("--group", a.group)) if value is not None]
        if given:
            raise NnsslError(f"{given[0]} needs --labels FILE.csv")
        if a.m != "finetune":
            raise NnsslError(
                f"-m {a.m} is for a classification: give --labels FILE.csv with --target COLUMN, or --npz FILE"
            )
        return False
    if a.labels is not None and a.npz is not None:
        raise NnsslError("give --labels FILE.csv with --target COLUMN, or --npz FILE, not both")
    if a.labels is not None and a.target is None:
        raise NnsslError("--labels needs --target COLUMN: which column to predict")
    if a.npz is not None and (a.target or a.group):
        raise NnsslError("--target and --group go with --labels; an npz brings its labels")
    if a.stock:
        raise NnsslError("--stock is for segmentation")
    return True


def _named(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise NnsslError(f"--init {text}: write it as NAME=FILE")
    return name, file


def _run(a: argparse.Namespace) -> int:
    from nnssl.evaluate.study.cost import measure_cost
    from nnssl.evaluate.study.jobs import Share, run_study
    from nnssl.evaluate.study.preparation import check_target, prepare
    from nnssl.evaluate.study.spec import read_study
    from nnssl.trainers.launch import pick_device

    share = Share(*_part(a.job))
    device = str(pick_device(a.device))
    study = read_study(a.study)
    check_folder(a.o)
    if a.dry_run:
        check_target(study)
        for line in measure_cost(study, a.o, a.jobs * share.count, device):
            log.info("%s", line)
        return 0
    prepare(study, a.o, _command_of_all([Path(sys.argv[0]).name, *sys.argv[1:]]), device)
    done, failed = run_study(a.o, a.jobs, share, device)
    log.info("%d trainings done, %d failed; next: nnssl_study report %s", done, failed, a.o)
    if failed:
        log.info("reasons stand in %s/cells/*/*/*/cell.json; the same command tries them again", a.o)
    return 1 if failed else 0


def _command_of_all(arguments: Sequence[str]) -> str:
    """The command as the report tells it: of the whole study, not of one job of an array; files without their folders."""
    kept = [
        now
        for last, now in zip(["", *arguments], arguments)
        if "--job" not in (last, now) and not now.startswith("--job=")
    ]
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in kept)


def _part(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise NnsslError(f"--job {text}: write it as i/n with i from 0 to n - 1")
    return int(first), int(second)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
