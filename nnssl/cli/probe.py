"""`nnssl_probe`: what can be read from a frozen encoder's features?"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.cli.common import check_folder, natural, parser, positive_int, run, seed
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.evaluate.labels import TargetColumn
    from nnssl.evaluate.probe.run import Finding

log = logging.getLogger(__name__)

DESCRIPTION = """Linear probes of frozen encoders for any column of a table, beside random encoders and a shuffled target.

  nnssl_probe -d 27 -c 2d --init spark=RUN/encoder.pth --labels table.csv --target group --target lv_ml -o PROBE

Splits are by patient. A target of numbers is a regression if it has many values; --target age:classes says otherwise."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_probe", DESCRIPTION)
    p.add_argument("-d", required=True, metavar="ID", help="dataset, planned and preprocessed")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="its plans")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration")
    p.add_argument("--init", nargs="+", default=[], metavar="NAME=FILE", help="encoders, each with a name")
    p.add_argument(
        "--labels", required=True, type=Path, metavar="FILE.csv", help="table with a column case (or patient)"
    )
    p.add_argument("--target", action="append", required=True, metavar="COLUMN", help="what to read; repeatable")
    p.add_argument("--group", metavar="COLUMN", help="patient; default: what the dataset knows of its subjects")
    p.add_argument("--per-group", metavar="COLUMN", help="also score the values of this column separately")
    p.add_argument("--levels", default="deepest", metavar="L", help="encoder stages: deepest, all, or numbers as 2,3")
    p.add_argument("--pooling", choices=["avg", "max", "avgmax"], default="avgmax", help="over space")
    p.add_argument("--random", type=positive_int, default=3, metavar="N", help="random encoders to compare with")
    p.add_argument("--permutations", type=natural, default=100, metavar="N", help="shuffles of the target")
    p.add_argument("--picture", choices=["pca", "tsne"], default="pca", help="of the features, coloured by each target")
    p.add_argument("--seed", type=seed, default=0, help="of folds, shuffles and random encoders")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("-o", required=True, type=Path, metavar="DIR", help="folder to write")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.data.folders import nnunet_folder, resolve_dataset
    from nnssl.data.subjects import read_subjects
    from nnssl.evaluate.features import RANDOM, case_reader
    from nnssl.evaluate.labels import read_table, read_target
    from nnssl.evaluate.probe.answers import outer_splits
    from nnssl.evaluate.probe.run import probe_target, write_findings

    check_folder(a.o)
    sources = _sources(a.init) or {"random 0": RANDOM}
    dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
    cases, read = case_reader(dataset, a.p, a.c)
    subjects = read_subjects(nnunet_folder("nnUNet_raw") / dataset, cases)
    targets = _together([read_target(a.labels, t, cases, subjects, a.group) for t in a.target], dataset)
    for target in targets:  # what cannot be split is said before features take their time
        outer_splits(target.values, target.groups, target.kind, a.seed)
    apart = _column(read_table(a.labels), a.per_group, a.labels) if a.per_group else {}
    encoders = {name: _features(a, dataset, cases, read, source, a.seed) for name, source in sources.items()}
    random = [_features(a, dataset, cases, read, RANDOM, a.seed + 1000 + i) for i in range(a.random)]
    about = {"dataset": dataset, "plans": a.p, "configuration": a.c, "levels": a.levels, "pooling": a.pooling}
    findings: list[Finding] = []
    lines: list[str] = []
    for target in targets:
        log.info(
            "%s: %s, %d cases of %d patients", target.name, target.kind, len(target.cases), len(set(target.groups))
        )
        findings += probe_target(target, encoders, random, permutations=a.permutations, seed=a.seed, apart=apart)
        for name, features in encoders.items():
            _picture(a, target, name, features)
        lines = write_findings(findings, a.o, about)  # again after every target: they take minutes each
    for line in lines:
        log.info("%s", line)


def _features(a: argparse.Namespace, dataset: str, cases: Any, read: Any, source: str, seed: int) -> dict[str, Any]:
    """Case -> features; of a 2D encoder the mean over slices."""
    from nnssl.evaluate.embedding import embed
    from nnssl.evaluate.features import make_extractor
    from nnssl.trainers.launch import pick_device

    options = {"levels": a.levels, "pooling": a.pooling, "seed": seed, "device": pick_device(a.device)}
    found = embed(make_extractor(source, dataset, a.p, a.c, **options), cases, read, "case", {})
    return dict(zip(found.cases, found.features))


def _together(targets: list[TargetColumn], dataset: str) -> list[TargetColumn]:
    """Cases whose voxels are the same under another name stay on one side of every split."""
    from nnssl.evaluate.labels import join_twins
    from nnssl.trainers.pools import fingerprint_of

    digests = (fingerprint_of(dataset) or {}).get("nnssl", {}).get("cases", {})
    joined = [join_twins(target, digests) for target in targets]
    twins = sorted({pair for _, pairs in joined for pair in pairs})
    if twins:
        said = ", ".join(f"{one} = {other}" for one, other in twins[:3])
        log.info("%d case(s) have the voxels of another one and are kept on its side: %s", len(twins), said)
    return [target for target, _ in joined]


def _picture(a: argparse.Namespace, target: TargetColumn, encoder: str, features: dict[str, Any]) -> None:
    import numpy as np

    from nnssl.evaluate.projection import draw, project

    places = project(np.stack([features[c] for c in target.cases]), a.picture, a.seed)
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{a.picture}_{target.name}_{encoder}.png")
    draw(places, target.values, target.kind, target.name, f"{encoder}: {target.name}", a.o / name)


def _sources(texts: Sequence[str]) -> dict[str, str]:
    """Name -> file of every `--init`."""
    found: dict[str, str] = {}
    for name, file in map(_named, texts):
        if name in found:
            raise NnsslError(f"--init {name}=...: the name is taken, give another one")
        found[name] = file
    return found


def _named(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise NnsslError(f"--init {text}: write it as NAME=FILE")
    return name, file


def _column(rows: list[dict[str, str]], column: str, path: Path) -> dict[str, str]:
    from nnssl.evaluate.labels import CASE_COLUMNS

    key = next((c for c in CASE_COLUMNS if c in rows[0]), None)
    if key is None or column not in rows[0]:
        raise NnsslError(f"--per-group {column}: {path} needs a column 'case' and that column")
    return {row[key]: row[column] for row in rows}


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
