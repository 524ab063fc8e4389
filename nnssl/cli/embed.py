"""`nnssl_embed`: features of a frozen encoder for every case or slice."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli.common import check_folder, parser, run, seed
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.evaluate.embedding import Embedding

log = logging.getLogger(__name__)

DESCRIPTION = """Write pooled features of a frozen encoder for every preprocessed case, or slice, of a dataset.

  nnssl_embed -d 27 -c 2d --init RUN/encoder.pth -o features.npz
  nnssl_embed -d 27 -c 2d --init random -o random.npz        the same network untrained, to compare with"""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_embed", DESCRIPTION)
    p.add_argument("-d", required=True, metavar="ID", help="dataset, planned and preprocessed; labels are not needed")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="its plans")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration")
    p.add_argument(
        "--init", required=True, metavar="FILE|random", help="any file of weights that nnssl reads, or random"
    )
    p.add_argument("--per", choices=["case", "slice"], default="case", help="a row per case, or per slice (2D)")
    p.add_argument("--levels", default="deepest", metavar="L", help="encoder stages: deepest, all, or numbers as 2,3")
    p.add_argument("--pooling", choices=["avg", "max", "avgmax"], default="avgmax", help="over space")
    p.add_argument("--picture", choices=["pca", "tsne"], help="also draw the rows, slices coloured by their place")
    p.add_argument("--seed", type=seed, default=0, help="of a random encoder")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("-o", required=True, type=Path, metavar="FILE", help="file to write: .npz or .parquet")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.data.folders import resolve_dataset
    from nnssl.evaluate.embedding import embed, write_embedding
    from nnssl.evaluate.features import case_reader, make_extractor
    from nnssl.trainers.launch import pick_device

    _check_file(a.o)
    dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
    cases, read = case_reader(dataset, a.p, a.c)
    options = {"levels": a.levels, "pooling": a.pooling, "seed": a.seed, "device": pick_device(a.device)}
    extractor = make_extractor(a.init, dataset, a.p, a.c, **options)
    if extractor.report is not None:
        for line in extractor.report.lines():
            log.info("%s", line)
    about = {"dataset": dataset, "plans": a.p, "configuration": a.c, "levels": list(extractor.levels),
             "pooling": a.pooling, "encoder": extractor.origin}  # fmt: skip
    found = embed(extractor, cases, read, a.per, about)
    write_embedding(found, a.o)
    if a.picture:
        _picture(found, a)
    log.info("%s: %d rows of %d features, %d cases", a.o, *found.features.shape, len(cases))


def _check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before there are features to lose."""
    if path.suffix not in (".npz", ".parquet"):
        raise NnsslError(f"-o {path}: the ending says the format, .npz or .parquet")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise NnsslError("parquet needs pyarrow (pip install pyarrow); .npz needs nothing")
    if path.is_dir():
        raise NnsslError(f"-o {path}: there is a folder of that name: choose another one")
    check_folder(path.parent)


def _picture(found: Embedding, a: argparse.Namespace) -> None:
    """Slices are coloured by their place between the first (0) and the last one (1) of their case."""
    import numpy as np

    from nnssl.evaluate.projection import draw, project

    path = a.o.with_name(f"{a.o.stem}_{a.picture}.png")
    places = project(found.features, a.picture, a.seed)
    title = f"{Path(a.init).name}, {found.about['dataset']}"
    if a.per == "case":
        draw(places, np.full(len(found.cases), "cases"), "classes", "", title, path)
    else:
        last = {case: max(1, int(n)) for case, n in zip(found.cases, found.slices)}  # slices are in order
        where = found.slices / np.array([last[c] for c in found.cases])
        draw(places, where, "regression", "place in the stack", title, path)
    log.info("%s", path)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
