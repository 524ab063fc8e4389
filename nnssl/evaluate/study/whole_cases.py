"""Deterministic evaluation of a trainer's network on whole cases: sliding window, no random patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


class WholeCases:
    """Whole cases of a trainer's target.

    Args:
        trainer: nnU-Net's, ready to train.
        cases: names of preprocessed, labelled cases.
        mirroring: average over mirrored images, as nnU-Net's prediction does.
    """

    def __init__(self, trainer: Any, cases: Sequence[str], mirroring: bool = False) -> None:
        self.trainer = trainer
        self.cases = list(cases)
        self.labels = named_labels(trainer)
        self._dataset = trainer.dataset_class(
            trainer.preprocessed_dataset_folder,
            self.cases,
            folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage,
        )
        on_gpu = trainer.device.type == "cuda"
        self._predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=mirroring,
            perform_everything_on_device=on_gpu,
            device=trainer.device,
            allow_tqdm=False,
        )

    def dice(self) -> dict[str, float]:
        """Mean Dice over the cases in the plans' grid: `dice` over all labels, then one entry per label.

        A label that is neither in the reference nor in the prediction of a case has no Dice there. NaN = in no case.
        """
        table = np.full((len(self.cases), len(self.labels)), np.nan)
        for i, case in enumerate(self.cases):
            _, reference, _, _ = self._dataset.load_case(case)
            found = np.asarray(self.trainer.label_manager.convert_logits_to_segmentation(self.logits(case)))
            table[i] = dice_per_label(found, np.asarray(reference[0]), self.labels, self.trainer.label_manager)
        known = [np.nanmean(column) if np.isfinite(column).any() else np.nan for column in table.T]
        mean = float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
        return {"dice": mean, **{name: float(v) for name, v in zip(self.labels, known)}}

    def logits(self, case: str) -> torch.Tensor:
        """(classes, *spatial) in the plans' grid, on the CPU."""
        trainer = self.trainer
        data, _, _, _ = self._dataset.load_case(case)
        network, training = trainer.network, trainer.network.training
        trainer.set_deep_supervision_enabled(False)
        network.eval()
        self._predictor.manual_initialization(
            network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        try:
            image = torch.from_numpy(np.array(data[:], dtype=np.float32))
            return self._predictor.predict_sliding_window_return_logits(image).cpu()
        finally:
            trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
            network.train(training)

    def write_prediction(self, case: str, path: Path) -> np.ndarray:
        """Predict a case, write it in its original grid, and return it."""
        trainer = self.trainer
        _, _, _, properties = self._dataset.load_case(case)
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            self.logits(case),
            trainer.plans_manager,
            trainer.configuration_manager,
            trainer.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        trainer.plans_manager.image_reader_writer_class().write_seg(found, str(path), properties)
        return np.asarray(found)


def named_labels(trainer: Any) -> dict[str, int | tuple[int, ...]]:
    """Foreground labels, or regions where the target has them, by name."""
    manager, known = trainer.label_manager, trainer.dataset_json["labels"]
    wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    as_key = {tuple(v) if isinstance(v, list | tuple) else (int(v),): name for name, v in known.items()}
    named = {}
    for label in wanted:
        key = tuple(int(x) for x in label) if isinstance(label, list | tuple) else (int(label),)
        named[as_key.get(key, "+".join(map(str, key)))] = key if len(key) > 1 else key[0]
    return named


def dice_per_label(
    found: np.ndarray, reference: np.ndarray, labels: dict[str, int | tuple[int, ...]], manager: Any
) -> list[float]:
    """Dice per label; NaN where a label is in neither. Voxels of nnU-Net's ignore label do not count."""
    counted = np.ones(reference.shape, bool) if manager.ignore_label is None else reference != manager.ignore_label
    scores = []
    for label in labels.values():
        a = region_or_label_to_mask(found, label) & counted
        b = region_or_label_to_mask(reference, label) & counted
        size = int(a.sum()) + int(b.sum())
        scores.append(2.0 * int((a & b).sum()) / size if size else float("nan"))
    return scores
