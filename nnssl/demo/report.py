"""The demonstration's result: Dice over training, whole-case Dice, two pictures, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnssl.demo.synthetic import FILE_ENDING, LABELS
from nnssl.files import atomic_path, write_json

CURVES, PREDICTION, NUMBERS = "learning_curves.png", "prediction.png", "result.json"
FOREGROUND = {name: value for name, value in LABELS.items() if value}
COLOURS = {"from scratch": "#7f7f7f", "pretrained": "#0072b2", "gland": "#e69f00", "kidney": "#56b4e9"}


@dataclass(frozen=True)
class Arm:
    """One of the two models.

    Attributes:
        name: "from scratch" or "pretrained".
        curve: nnU-Net's mean foreground Dice on random validation patches ("pseudo Dice"), one value per epoch.
        steps_per_epoch: optimiser steps between two of them.
        cases: names of the validation cases.
        dice: (case, organ) Dice of whole validation cases after training; NaN where an organ is absent and not predicted.
        predictions: folder of the predicted label images.
    """

    name: str
    curve: list[float]
    steps_per_epoch: int
    cases: list[str]
    dice: np.ndarray
    predictions: Path

    @property
    def organ_dice(self) -> list[float]:
        """Mean over cases, one per organ."""
        return [float(d) for d in np.nanmean(self.dice, axis=0)]


def read_arm(name: str, checkpoint: Path, predictions: Path, dataset: Path, steps_per_epoch: int) -> Arm:
    """Collect what a finished training and its predictions say.

    Args:
        name: name of the arm.
        checkpoint: nnU-Net's checkpoint_final.pth, which holds its log.
        predictions: folder with one label image per validation case.
        dataset: raw dataset folder with the reference in labelsTr.
        steps_per_epoch: optimiser steps per epoch.
    """
    files = sorted(predictions.glob(f"*{FILE_ENDING}"))
    cases = [f.name.removesuffix(FILE_ENDING) for f in files]
    dice = [organ_dice(read_image(f), read_image(dataset / "labelsTr" / f.name)) for f in files]
    return Arm(name, read_curve(checkpoint), steps_per_epoch, cases, np.array(dice), predictions)


def read_curve(checkpoint: Path) -> list[float]:
    """nnU-Net's validation Dice per epoch. Only tensors, plain values and NumPy numbers are loaded, never code."""
    number = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [number, np.dtype, *(type(np.dtype(t)) for t in ("float16", "float32", "float64", "int64"))]
    with torch.serialization.safe_globals(allowed):
        log = torch.load(checkpoint, map_location="cpu", weights_only=True)["logging"]
    return [float(d) for d in log["mean_fg_dice"]]


def organ_dice(prediction: np.ndarray, reference: np.ndarray) -> list[float]:
    """Dice of every organ between two label images (z, y, x); NaN where neither has it."""
    scores = []
    for value in FOREGROUND.values():
        p, r = prediction == value, reference == value
        voxels = int(p.sum() + r.sum())
        scores.append(2.0 * int((p & r).sum()) / voxels if voxels else float("nan"))
    return scores


def read_image(path: Path) -> np.ndarray:
    """Array (z, y, x) of an image file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def write_report(root: Path, arms: Sequence[Arm], dataset: Path, settings: Mapping[str, Any]) -> None:
    """Write the pictures and `result.json` into the demo's folder."""
    plot_curves(root / CURVES, arms)
    plot_prediction(root / PREDICTION, arms, dataset)
    numbers = {
        a.name: {
            "patch_dice_per_epoch": a.curve,
            "steps_per_epoch": a.steps_per_epoch,
            "case_dice": dict(zip(a.cases, a.dice.tolist())),
            "mean_case_dice": dict(zip(FOREGROUND, a.organ_dice)),
        }
        for a in arms
    }
    write_json({"settings": dict(settings), "models": numbers}, root / NUMBERS)


# -------------------------------------------------------------------- text


def table(arms: Sequence[Arm]) -> list[str]:
    """Lines of the table: validation Dice after every epoch, then of the whole cases at the end."""
    head = f"{'training':<26}" + "".join(f"{a.name:>14}" for a in arms) + f"{'difference':>14}"
    rule = "-" * len(head)
    lines = [head, rule]
    for epoch in range(len(arms[0].curve)):
        steps = (epoch + 1) * arms[0].steps_per_epoch
        lines.append(_row(f"epoch {epoch + 1:>3}  ({steps:>4} steps)", [a.curve[epoch] for a in arms]))
    lines += [rule, f"whole cases at the end (n = {len(arms[0].cases)})"]
    for i, organ in enumerate(FOREGROUND):
        lines.append(_row(f"  {organ}", [a.organ_dice[i] for a in arms]))
    lines.append(_row("  mean", [float(np.mean(a.organ_dice)) for a in arms]))
    return lines


def _row(name: str, values: Sequence[float]) -> str:
    return f"{name:<26}" + "".join(f"{v:>14.3f}" for v in values) + f"{values[-1] - values[0]:>+14.3f}"


def print_report(
    root: Path, arms: Sequence[Arm], weights: Path, minutes: float, unlabelled: int, labelled: int
) -> None:
    """Print the table, what it does and does not show, where everything is, and the commands for one's own data."""
    print(f"Validation Dice of nnU-Net trained on {labelled} labelled images, and the same after pretraining on")
    print(f"{unlabelled} unlabelled ones (per epoch: nnU-Net's estimate from random patches, which is noisy):\n")
    print("\n".join(table(arms)))
    print(NO_EVIDENCE)
    print(f"\nDone in {minutes:.1f} minutes. To look at:")
    shown = {
        root / CURVES: "Dice over training of both models",
        root / PREDICTION: "a typical validation image, its reference and both predictions",
        weights.parent / "preview.png": "what pretraining was shown, and what it filled in",
        weights.parent / "progress.png": "the loss of the pretraining",
        weights.parent / "encoder.pth": "the pretrained encoder",
        weights: "the same as a start for nnUNetv2_train",
        root / NUMBERS: "all numbers",
    }
    for path, what in shown.items():
        print(f"  {path}\n      {what}")
    print(OWN_DATA)


NO_EVIDENCE = """
These are the numbers of this one run, as they came out. nnU-Net does not seed its training, so the same command gives
other numbers next time, and the order can turn round. One seed on toy data, whose design and schedule were chosen so
that a short pretraining has something to show, is a demonstration and no evidence: conclusions need several draws of
labelled cases, each with a control at its own best learning rate."""

OWN_DATA = """
The same with your own data: target dataset 27 (labelled) and pool 500 (unlabelled) in nnUNet_raw, nnU-Net's folders
set as usual, export nnUNet_extTrainer="$(nnssl_plugin_path)", and the target planned by nnssl_plan_and_preprocess -d 27.
Then:

  nnssl_plan_and_preprocess -d 500 --like 27 -c 3d_fullres
  nnssl_pretrain 500 3d_fullres -m masked_region
  nnUNetv2_train 27 3d_fullres 0 -p nnsslPlans -tr nnUNetTrainer_SSLWarmup -pretrained_weights \\
      "$nnUNet_results"/Dataset500_*/nnsslTrainer_MaskedRegion__nnsslPlans__3d_fullres/fold_all/nnunet_init.pth
  nnUNetv2_predict -i IMAGES -o PREDICTIONS -d 27 -c 3d_fullres -f 0 -p nnsslPlans -tr nnUNetTrainer_SSLWarmup"""


# -------------------------------------------------------------------- pictures


def plot_curves(path: Path, arms: Sequence[Arm]) -> None:
    """Dice over optimiser steps; a star marks the whole-case Dice after training."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for arm in arms:
        steps = arm.steps_per_epoch * np.arange(1, len(arm.curve) + 1)
        axis.plot(steps, arm.curve, marker="o", color=COLOURS[arm.name], label=arm.name)
        mean = float(np.mean(arm.organ_dice))
        label = f"{arm.name}, whole cases at the end: {mean:.3f}"
        axis.plot(steps[-1], mean, marker="*", markersize=17, linestyle="", color=COLOURS[arm.name], label=label)
    axis.set_xlabel("training step (optimiser updates)")
    axis.set_ylabel("validation Dice, mean of the organs")
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1)
    axis.set_title("nnU-Net on a few labelled cases: one run on toy data, no evidence", fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(loc="best")
    _save(figure, path)


def plot_prediction(path: Path, arms: Sequence[Arm], dataset: Path) -> None:
    """One slice of a typical validation case: image, reference and every prediction, with a legend.

    Typical: the median case by the mean Dice of all models. The slice is the one with most organs, then most organ voxels.
    """
    plt = _pyplot()
    chosen = median_case(arms)
    case = arms[0].cases[chosen]
    image = read_image(dataset / "imagesTr" / f"{case}_0000{FILE_ENDING}")
    reference = read_image(dataset / "labelsTr" / f"{case}{FILE_ENDING}")
    areas = np.stack([(reference == v).sum(axis=(1, 2)) for v in FOREGROUND.values()])
    z = int(np.argmax((areas > 0).sum(axis=0) * areas.size * areas.max() + areas.sum(axis=0)))
    overlays: dict[str, np.ndarray | None] = {"image": None, "reference": reference[z]}
    for arm in arms:
        predicted = read_image(arm.predictions / f"{case}{FILE_ENDING}")
        overlays[f"{arm.name}: Dice {np.nanmean(arm.dice[chosen]):.2f}"] = predicted[z]
    figure, axes = plt.subplots(1, len(overlays), figsize=(3.6 * len(overlays), 4.5), layout="constrained")
    for axis, (title, labels) in zip(axes, overlays.items()):
        axis.imshow(image[z], cmap="gray", interpolation="bicubic")
        if labels is not None:
            axis.imshow(_coloured(labels))
        axis.set_title(title, fontsize=12)
        axis.set_axis_off()
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[organ]) for organ in FOREGROUND]
    figure.legend(handles, list(FOREGROUND), loc="outside lower center", ncols=len(handles), fontsize=12)
    figure.suptitle(
        f"{case}: the median of the {len(arms[0].cases)} validation cases; slice {z}, Dice of the whole case",
        fontsize=12,
    )
    _save(figure, path)


def median_case(arms: Sequence[Arm]) -> int:
    """Position of the case whose Dice, over all organs and models, is the (upper) median."""
    score = np.nanmean(np.stack([arm.dice for arm in arms]), axis=(0, 2))
    return int(np.argsort(score, kind="stable")[len(score) // 2])


def _coloured(labels: np.ndarray) -> np.ndarray:
    """Label slice (y, x) -> transparent colours (y, x, 4)."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*labels.shape, 4))
    for organ, value in FOREGROUND.items():
        picture[labels == value] = to_rgba(COLOURS[organ], 0.55)
    return picture


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    _pyplot().close(figure)
