"""One cell of a study from the draw to its files: a real training with an nnU-Net trainer, then the test cases."""

from __future__ import annotations

import copy
import csv
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans
from nnssl.evaluate.study.cell_trainer import CellRun, cell_class, last_point, one_process
from nnssl.evaluate.study.cells import Cell, write_record
from nnssl.evaluate.study.spec import Initialisation, StudyConfig
from nnssl.evaluate.study.whole_cases import WholeCases
from nnssl.files import atomic_path, write_json
from nnssl.trainers.pools import fingerprint_of

log = logging.getLogger(__name__)


def run_segmentation(
    study: StudyConfig,
    cell: Cell,
    folder: Path,
    drawn: Sequence[str],
    slices: Mapping[str, list[int]],
    device: torch.device,
) -> None:
    """Train and test one cell; its files are complete when this returns.

    Args:
        study: the study.
        cell: which training.
        folder: of the cell.
        drawn: training cases.
        slices: case -> labelled slices; empty = all.
        device: to train on.
    """
    one_process(device)
    trainer = make_trainer(study, cell, folder, drawn, slices, device)
    latest, final = (Path(trainer.output_folder) / f"checkpoint_{name}.pth" for name in ("latest", "final"))
    curve = folder / "curve.csv"
    if final.is_file() and last_point(curve)[0] == study.steps:  # stopped, or failed, while it predicted the test cases
        trainer.load_checkpoint(str(final))
        log.info("%s is trained; its test cases come again", cell.name)
    else:
        if latest.is_file() and curve.is_file():
            trainer.load_checkpoint(str(latest))
            log.info("%s continues at epoch %d of %d", cell.name, trainer.current_epoch, trainer.num_epochs)
        else:
            write_json({}, folder / "load_report.json")
        trainer.run_training()
    write_record(folder, train_seconds=last_point(curve)[1], steps=study.steps)
    write_test(trainer, study, folder)
    if not study.keep_weights:
        for path in Path(trainer.output_folder).glob("checkpoint_*.pth"):
            path.unlink()


def make_trainer(
    study: StudyConfig,
    cell: Cell,
    folder: Path,
    drawn: Sequence[str],
    slices: Mapping[str, list[int]],
    device: torch.device,
) -> Any:
    """The cell's trainer, as `nnUNetv2_train` would construct it."""
    init = study.inits[cell.init]
    plans = copy.deepcopy(read_plans(study.dataset, study.plans))
    plans["plans_name"] = f"{study.plans}_{cell.name}"
    if study.batch_size is not None:
        plans["configurations"][study.configuration]["batch_size"] = study.batch_size
    plans["nnssl"] = settings_block(study, init, cell.seed)
    run = CellRun(
        steps=study.steps,
        evaluate_every=study.evaluate_every,
        train=list(drawn),
        validation=list(study.validation),
        seed=cell.seed,
        curve=str(folder / "curve.csv"),
        load_report=str(folder / "load_report.json"),
        slices=dict(slices),
    )
    plans |= {"continue_training": False, "nnssl_study": vars(run)}
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / study.dataset / "dataset.json")
    return cell_class(init.schedule)(plans, study.configuration, 0, dataset_json, device)


def settings_block(study: StudyConfig, init: Initialisation, seed: int) -> dict[str, Any]:
    """The plans' `"nnssl"` block of a cell."""
    epochs = study.steps // study.evaluate_every
    block = {
        "init": init.weights_of(seed),
        "decoder": init.decoder,
        "key_prefix": init.key_prefix,
        "channel_map": init.channel_map,
        "min_coverage": init.min_coverage,
        "initial_lr": init.lr,
        "optimizer": init.optimizer,
        "warmup_epochs": None if init.warmup is None else init.warmup * epochs,
        "layer_decay": init.layer_decay,
        "new_layers_lr": init.new_layers_lr,
        "rescale": init.rescale,
        "head": init.head,
        "average": init.average,
        "decay_power": init.decay_power,
        "freeze_stages": init.freeze_stages,
        "seed": seed,
    }
    return {k: v for k, v in block.items() if v is not None}


def write_test(trainer: Any, study: StudyConfig, folder: Path) -> None:
    """Predict every test case in its original grid and write its metrics."""
    from nnssl.evaluate.metrics import case_metrics  # its library takes seconds to import

    whole = WholeCases(trainer, study.test, study.mirroring)
    reader = trainer.plans_manager.image_reader_writer_class()
    ending = trainer.dataset_json["file_ending"]
    references = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    predictions = folder / "predictions"
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir()
    rows = []
    for case in study.test:
        found = whole.write_prediction(case, predictions / f"{case}{ending}")
        reference, properties = reader.read_seg(str(references / f"{case}{ending}"))
        ignore = trainer.label_manager.ignore_label
        scores = case_metrics(found, reference[0], properties["spacing"], whole.labels, study.tolerance_mm, ignore)
        rows += [{"case": case, "label": label, **values} for label, values in scores.items()]
    with atomic_path(folder / "test.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)


def known_fingerprint(study: StudyConfig) -> dict[str, Any]:
    """The target's fingerprint, or an empty one."""
    return fingerprint_of(study.dataset) or {}
