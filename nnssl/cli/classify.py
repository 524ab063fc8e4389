"""`nnssl_classify`: classes or quantities of whole cases, with a pretrained encoder."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from nnssl.cli.common import natural, parser, positive_float, positive_int, run, share
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

DESCRIPTION = """Classify whole cases, or predict a quantity, with a pretrained encoder, fine-tuned or frozen.

  nnssl_classify -d 27 -c 2d --labels cases.csv --target group -m finetune --init RUN/encoder.pth -o OUT
  nnssl_classify -d 600 -c 2d --npz patches.npz -m linear --init RUN/encoder.pth -o OUT

With a table: cross-validation by patient. With a MedMNIST-style npz: trained on its train, tested on its test images."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_classify", DESCRIPTION)
    p.add_argument(
        "-d", required=True, metavar="ID", help="dataset whose plans say what the encoder is; its cases, unless --npz"
    )
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="its plans")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration")
    p.add_argument(
        "--labels", type=Path, metavar="FILE.csv", help="table with a column case (or patient) and the target"
    )
    p.add_argument("--target", metavar="COLUMN", help="what to predict")
    p.add_argument("--group", metavar="COLUMN", help="patient; default: what the dataset knows of its subjects")
    p.add_argument(
        "--npz", type=Path, metavar="FILE", help="MedMNIST-style images and labels instead of the dataset's cases"
    )
    p.add_argument("-m", choices=["finetune", "linear", "mlp", "knn"], default="finetune", help="how")
    p.add_argument("--init", default="random", metavar="FILE|random", help="any file of weights that nnssl reads")
    p.add_argument(
        "--train-images", type=positive_int, metavar="N", help="train on so many only (with --npz), drawn by the seed"
    )
    p.add_argument("--steps", type=positive_int, default=700, metavar="N", help="optimiser steps of fine-tuning")
    p.add_argument(
        "--freeze", type=share, default=1 / 7, metavar="SHARE", help="of the steps in which the encoder stands still"
    )
    p.add_argument("--lr", type=positive_float, default=1e-4, metavar="X", help="peak learning rate (Adam)")
    p.add_argument("--batch-size", type=positive_int, default=16, metavar="N", help="images per step")
    p.add_argument("--flip", action="store_true", help="flip training images at random")
    p.add_argument("--levels", default="deepest", metavar="L", help="encoder stages: deepest, all, or numbers as 2,3")
    p.add_argument("--pooling", choices=["avg", "max", "avgmax"], default="avgmax", help="over space")
    p.add_argument("--folds", type=positive_int, default=5, metavar="K", help="of the cross-validation")
    p.add_argument("--seed", type=natural, default=0, help="of folds, head, order and augmentation")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("-o", required=True, type=Path, metavar="DIR", help="folder to write")
    return p


def main_with(a: argparse.Namespace) -> None:
    import torch

    from nnssl.data.folders import resolve_dataset
    from nnssl.evaluate.classify.run import cross_validate, run_classification
    from nnssl.evaluate.classify.scores import write_results
    from nnssl.evaluate.classify.settings import ClassifySettings
    from nnssl.evaluate.features import make_extractor
    from nnssl.trainers.launch import pick_device

    if (a.npz is None) == (a.labels is None):
        raise NnsslError("give --labels FILE.csv with --target COLUMN, or --npz FILE")
    if a.labels is not None and a.target is None:
        raise NnsslError("--labels needs --target COLUMN: which column to predict")
    if a.folds < 2:
        raise NnsslError("--folds: at least 2")
    dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
    device = pick_device(a.device, 1)
    torch.manual_seed(a.seed)
    settings = ClassifySettings(
        method=a.m, init=a.init, steps=a.steps, freeze_share=min(a.freeze, 0.99), lr=a.lr, batch_size=max(2, a.batch_size),
        flip=a.flip, levels=a.levels, pooling=a.pooling, folds=a.folds, seed=a.seed,
    )  # fmt: skip

    def fresh() -> Any:
        options = {"levels": a.levels, "pooling": a.pooling, "seed": a.seed, "device": device}
        return make_extractor(a.init, dataset, a.p, a.c, **options)

    extractor = fresh()
    if extractor.report is not None:
        log.info("encoder covered: %.1f %%", 100 * extractor.report.encoder_coverage)
    if a.npz is not None:
        train, test = _from_npz(a, extractor)
        answers, _ = run_classification(train, test, extractor, settings)
        data, known = test, train.known
    else:
        data = _from_dataset(a, dataset, extractor)
        answers, known = cross_validate(data, fresh, settings, a.folds), data.known
    where = {"dataset": dataset, "plans": a.p, "configuration": a.c, "encoder": extractor.origin}
    shown = {k: v for k, v in settings.model_dump().items() if k != "init"}
    about = {"settings": shown, **where, "target": a.target or "npz"}
    for line in write_results(a.o, data.names, data.groups, data.values, answers, data.kind, known, about):
        log.info("%s", line)


def _from_dataset(a: argparse.Namespace, dataset: str, extractor: Any) -> Any:
    from nnssl.data.folders import nnunet_folder
    from nnssl.data.subjects import read_subjects
    from nnssl.evaluate.classify.images import stack
    from nnssl.evaluate.classify.run import Data
    from nnssl.evaluate.features import case_reader
    from nnssl.evaluate.labels import read_target
    from nnssl.networks import total_stride

    cases, read = case_reader(dataset, a.p, a.c)
    subjects = read_subjects(nnunet_folder("nnUNet_raw") / dataset, cases)
    target = read_target(a.labels, a.target, cases, subjects, a.group)
    images = stack(target.cases, read, extractor.flat, total_stride(extractor.encoder))
    log.info(
        "%d cases of %d patients, read as %s",
        len(target.cases),
        len(set(target.groups)),
        "x".join(map(str, images.shape[3:])),
    )
    return Data(target.cases, images, target.values, target.groups, target.kind)


def _from_npz(a: argparse.Namespace, extractor: Any) -> tuple[Any, Any]:
    import numpy as np
    import torch

    from nnssl.evaluate.classify.images import fit, read_npz
    from nnssl.evaluate.classify.run import Data
    from nnssl.networks import total_stride

    found = read_npz(a.npz)
    stride = total_stride(extractor.encoder)

    def data(split: str) -> Any:
        images, labels = found[split]
        if images.ndim - 2 != len(stride):
            raise NnsslError(
                f"{a.npz} holds {images.ndim - 2}D images, {a.c} is {len(stride)}D: choose another configuration"
            )
        size = [max(2 * s, -(-n // s) * s) for n, s in zip(images.shape[2:], stride)]
        fitted = torch.from_numpy(np.stack([fit(i, size) for i in images]))[:, None]
        names = tuple(f"{split}_{i}" for i in range(len(labels)))
        return Data(names, fitted, labels.astype(str), names, "classes")

    train, test = data("train"), data("test")
    if a.train_images:
        if a.train_images > len(train.names):
            raise NnsslError(f"--train-images {a.train_images}: there are {len(train.names)}")
        train = train.part(_drawn(train.values, a.train_images, a.seed))
    if len(set(train.values)) < 2:
        raise NnsslError("the training images show one class only: draw more (--train-images) or another --seed")
    return train, test


def _drawn(values: Any, count: int, seed: int) -> Any:
    """A nested draw: the first of one shuffled order per seed."""
    import numpy as np

    return np.random.default_rng(seed).permutation(len(values))[:count]


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
