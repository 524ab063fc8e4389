"""`nnssl_classify`: classes or quantities of whole cases, with a pretrained encoder."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.cli.common import check_folder, natural, parser, positive_float, positive_int, run, seed
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.evaluate.classify.npz import NpzImages
    from nnssl.evaluate.classify.recipe import Recipe
    from nnssl.evaluate.classify.settings import ClassifySettings
    from nnssl.evaluate.features import Extractor

log = logging.getLogger(__name__)

DESCRIPTION = """Classify whole cases, or predict a quantity, with a pretrained encoder, fine-tuned or frozen.

  nnssl_classify -d 27 -c 2d --labels cases.csv --target group -m finetune --init RUN/encoder.pth -o OUT
  nnssl_classify -d 610 -c 2d --npz patches.npz -m linear --init RUN/encoder.pth -o OUT
  nnssl_classify --npz patches.npz -m linear --init RUN/encoder.pth -o OUT       images as the encoder file says
  nnssl_classify --predict OUT/model.pth -i IMAGES -o ANSWERS                    new cases

With a table: cross-validation by patient, then a model of all cases. With a MedMNIST-style npz: trained on its train, tested
on its test images. With --predict: a folder of images CASE_0000.nii.gz, a dataset, or an npz."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_classify", DESCRIPTION)
    what = p.add_argument_group("what to learn")
    what.add_argument("-d", metavar="ID", help="dataset whose plans say what the encoder is; its cases, unless --npz")
    what.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="its plans")
    what.add_argument("-c", metavar="CONFIG", help="configuration")
    what.add_argument(
        "--labels", type=Path, metavar="FILE.csv", help="table with a column case (or patient) and the target"
    )
    what.add_argument("--target", metavar="COLUMN", help="what to predict")
    what.add_argument("--group", metavar="COLUMN", help="patient; default: what the dataset knows of its subjects")
    what.add_argument(
        "--npz", type=Path, metavar="FILE", help="MedMNIST-style images and labels instead of the dataset's cases"
    )
    what.add_argument(
        "--train-images", type=positive_int, metavar="N", help="train on so many only (with --npz), drawn by the seed"
    )
    how = p.add_argument_group("how")
    how.add_argument("-m", choices=["finetune", "linear", "mlp", "knn"], default="finetune", help="how")
    how.add_argument("--init", default="random", metavar="FILE|random", help="any file of weights that nnssl reads")
    how.add_argument("--levels", default="deepest", metavar="L", help="encoder stages: deepest, all, or numbers as 2,3")
    how.add_argument("--pooling", choices=["avg", "max", "avgmax"], default="avgmax", help="over space")
    how.add_argument("--folds", type=positive_int, default=5, metavar="K", help="of the cross-validation")
    how.add_argument("--seed", type=seed, default=0, help="of folds, draw, head, order and augmentation")
    tune = p.add_argument_group("fine-tuning")
    tune.add_argument("--steps", type=positive_int, metavar="N", help="optimiser steps; default 700")
    tune.add_argument("--epochs", type=positive_int, metavar="N", help="passes over the training images instead")
    tune.add_argument(
        "--freeze-epochs",
        type=natural,
        metavar="N",
        help="passes in which the encoder stands still; default: a seventh, 0 for an untrained encoder",
    )
    tune.add_argument("--lr", type=positive_float, default=1e-4, metavar="X", help="peak learning rate (Adam)")
    tune.add_argument("--head-lr", type=positive_float, default=10.0, metavar="F", help="factor on it for the head")
    tune.add_argument("--batch-size", type=positive_int, default=16, metavar="N", help="images per step")
    tune.add_argument(
        "--select", choices=["best", "last"], default="best", help="weights, where the npz has validation images"
    )
    tune.add_argument("--no-augment", action="store_true", help="leave training images as they are")
    tune.add_argument("--flip", action="store_true", help="also flip training images at random")
    new = p.add_argument_group("new cases")
    new.add_argument("--predict", type=Path, metavar="MODEL", help="the model.pth of an earlier call: train nothing")
    new.add_argument("-i", metavar="INPUT", help="folder of images, number of a dataset, or npz")
    p.add_argument("-device", choices=["cpu", "cuda", "mps"], help="default: the best there is")
    p.add_argument("-o", required=True, type=Path, metavar="DIR", help="folder to write")
    return p


def main_with(a: argparse.Namespace) -> None:
    _check(a)
    check_folder(a.o)
    if a.predict is not None:
        _predict(a)
        return
    import torch

    from nnssl.evaluate.classify.settings import ClassifySettings
    from nnssl.trainers.launch import pick_device

    device = pick_device(a.device)
    torch.manual_seed(a.seed)
    settings = ClassifySettings(
        method=a.m, init=a.init, steps=a.steps, epochs=a.epochs, freeze_epochs=a.freeze_epochs, lr=a.lr, head_lr=a.head_lr,
        batch_size=a.batch_size, select=a.select, levels=a.levels, pooling=a.pooling, seed=a.seed, augment=not a.no_augment,
        flip=a.flip,
    )  # fmt: skip
    if a.npz is not None:
        _from_npz(a, settings, device)
    else:
        _from_table(a, settings, device)


def _check(a: argparse.Namespace) -> None:
    """Arguments that need others."""
    if a.predict is not None:
        if a.i is None:
            raise NnsslError("--predict needs -i: a folder of images, the number of a dataset, or an npz file")
        for name, value in (("--labels", a.labels), ("--npz", a.npz), ("-d", a.d)):
            if value is not None:
                raise NnsslError(f"{name} does not go with --predict: the new cases are named with -i")
        return
    if a.i is not None:
        raise NnsslError("-i goes with --predict MODEL")
    if (a.npz is None) == (a.labels is None):
        raise NnsslError("give --labels FILE.csv with --target COLUMN, or --npz FILE")
    if a.labels is not None and a.target is None:
        raise NnsslError("--labels needs --target COLUMN: which column to predict")
    if a.labels is not None and (a.d is None or a.c is None):
        raise NnsslError("--labels needs -d ID and -c CONFIG: whose cases, preprocessed how")
    if (a.d is None) != (a.c is None):
        raise NnsslError("-d ID and -c CONFIG belong together")
    if a.train_images and a.npz is None:
        raise NnsslError(
            "--train-images goes with --npz; with a table, `nnssl_study init --labels` compares label counts"
        )
    if a.folds < 2:
        raise NnsslError("--folds: at least 2")
    if a.steps and a.epochs:
        raise NnsslError("give --steps or --epochs, not both")


def _maker(a: argparse.Namespace, dataset: str, device: Any) -> Callable[[], Extractor]:
    from nnssl.evaluate.features import make_extractor

    def fresh() -> Extractor:
        options: Any = {"levels": a.levels, "pooling": a.pooling, "seed": a.seed, "device": device}
        return make_extractor(a.init, dataset, a.p, a.c, **options)

    return fresh


def _from_table(a: argparse.Namespace, settings: ClassifySettings, device: Any) -> None:
    from nnssl.data.folders import resolve_dataset
    from nnssl.evaluate.classify.data import Cases
    from nnssl.evaluate.classify.model import write_model
    from nnssl.evaluate.classify.run import cross_validate, fit, frozen_features
    from nnssl.evaluate.probe.answers import outer_splits
    from nnssl.networks import total_stride

    dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
    source = Cases(dataset, a.p, a.c, a.labels, a.target, a.group)
    known = source.known
    outer_splits(
        known.values, known.groups, known.kind, a.seed, a.folds
    )  # refuses too few patients, before any reading
    fresh = _maker(a, dataset, device)
    extractor = fresh()
    _covered(extractor)
    recipe = source.recipe(total_stride(extractor.encoder))
    _say(len(known.names), len(set(known.groups)), recipe)
    data = source.read(known.names, recipe)
    rows = None if a.m == "finetune" else frozen_features(data, extractor, settings)
    answers = cross_validate(data, fresh, recipe, settings, a.folds, rows)
    model, _ = fit(data, None, extractor, recipe, settings, a.target, rows)
    about = {"folds": a.folds, "dataset": dataset, "plans": a.p, "configuration": a.c, "target": a.target}
    _write(a, settings, data, answers, data.known, {**about, "encoder": extractor.origin})
    write_model(model, a.o / "model.pth")
    log.info("%s: trained on all %d cases, for --predict", a.o / "model.pth", len(data.names))


def _from_npz(a: argparse.Namespace, settings: ClassifySettings, device: Any) -> None:
    from nnssl.data.folders import nnunet_folder, read_dataset_json, resolve_dataset
    from nnssl.evaluate.classify.data import known_plans
    from nnssl.evaluate.classify.encoder import CONFIGURATION, own_extractor
    from nnssl.evaluate.classify.model import write_model
    from nnssl.evaluate.classify.npz import NpzImages
    from nnssl.evaluate.classify.run import fit
    from nnssl.networks import total_stride

    if a.d is None:
        extractor, plans, dataset_json = own_extractor(settings, device)
        source = NpzImages(a.npz, plans, CONFIGURATION, dataset_json)
    else:
        dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
        dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / dataset / "dataset.json")
        source = NpzImages(a.npz, known_plans(dataset, a.p, a.c), a.c, dataset_json)
        extractor = _maker(a, dataset, device)()
    _covered(extractor)
    chosen = _drawn(source, a.train_images, a.seed)
    recipe = source.recipe(total_stride(extractor.encoder))
    _say(len(chosen), len(chosen), recipe)
    validation = source.names("val") if settings.method == "finetune" and settings.select == "best" else []
    train, test = source.read(chosen, recipe), source.read(source.names("test"), recipe)
    looked = source.read(validation, recipe) if validation else None
    model, points = fit(train, looked, extractor, recipe, settings, "npz")
    answers = model.answers(test.images, extractor.device)
    about = {"training_images": len(chosen), "npz": a.npz.name, "encoder": extractor.origin, "target": "npz"}
    _write(a, settings, test, answers, model.known, about)
    if points:
        from nnssl.evaluate.classify.curve import write_curve

        write_curve(points, a.o / "curve.csv")
    write_model(model, a.o / "model.pth")


def _drawn(source: NpzImages, count: int | None, seed: int) -> list[str]:
    """Training images: all, or the beginning of the seed's stratified order: smaller draws are part of larger ones."""
    from nnssl.evaluate.classify.data import check_classes
    from nnssl.evaluate.strata import strata_of, stratified_order

    names = source.names("train")
    values = dict(zip(source.known.names, source.known.values))
    if count is not None:
        if count > len(names):
            raise NnsslError(f"--train-images {count}: there are {len(names)}")
        strata = strata_of(source.known.values[: len(names)], "classes")
        names = stratified_order(names, strata, seed)[:count]
    check_classes([values[n] for n in names], [values[n] for n in source.names("test") + source.names("val")])
    return names


def _predict(a: argparse.Namespace) -> None:
    from nnssl.evaluate.classify.model import read_model
    from nnssl.evaluate.classify.predict import find_cases, predict
    from nnssl.evaluate.classify.scores import write_predictions
    from nnssl.files import write_json
    from nnssl.trainers.launch import pick_device

    model = read_model(a.predict)
    cases = find_cases(a.i, model.recipe)
    log.info("%d %s", len(cases.readers), cases.origin)
    names, answers, failed = predict(model, cases, pick_device(a.device))
    for name, reason in failed.items():
        log.warning("%s: %s", name, reason)
    if not names:
        raise NnsslError(f"none of {len(failed)} cases could be used; the first: {next(iter(failed.values()), '')}")
    write_predictions(a.o / "predictions.csv", names, answers, model.kind, model.known)
    write_json(failed, a.o / "failed.json")
    log.info("%s: %d answers, %d cases without", a.o / "predictions.csv", len(names), len(failed))


def _covered(extractor: Extractor) -> None:
    if extractor.report is not None:
        log.info("encoder covered: %.1f %%", 100 * extractor.report.encoder_coverage)


def _say(images: int, patients: int, recipe: Recipe) -> None:
    slices = f"{recipe.slices} slices of " if recipe.flat and recipe.slices > 1 else ""
    log.info("%d cases of %d patients, read as %s%s", images, patients, slices, "x".join(map(str, recipe.size)))


def _write(a: argparse.Namespace, settings: ClassifySettings, data: Any, answers: Any, known: Any, about: Any) -> None:
    from nnssl.evaluate.classify.scores import write_results

    shown = {k: v for k, v in settings.model_dump().items() if k != "init"}  # may name a person's folder
    about = {"settings": shown, **about}
    for line in write_results(a.o, data.names, data.groups, data.values, answers, data.kind, known, about):
        log.info("%s", line)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
