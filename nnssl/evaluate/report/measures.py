"""What a study measures, by its task: names for people, directions, and the height that counts as nothing learnt."""

from __future__ import annotations

from dataclasses import dataclass

from nnssl.evaluate.labels import Kind
from nnssl.evaluate.metrics import LARGER_IS_BETTER


@dataclass(frozen=True)
class Measures:
    """Metrics of a task.

    Attributes:
        names: metric -> its name in tables and figures; the first one is the main one.
        smaller_is_better: metrics of that direction.
        brief: those of the short table, beside the main one.
        curve: column of the learning curves.
        curve_name: its name in figures.
        chance: its height where nothing has been learnt.
        per_label: heading of the table by label or class; empty = there is none.
    """

    names: dict[str, str]
    smaller_is_better: tuple[str, ...]
    brief: tuple[str, ...]
    curve: str
    curve_name: str
    chance: float
    per_label: str

    @property
    def main(self) -> str:
        """The metric that conclusions are of unless another one is asked for."""
        return next(iter(self.names))

    def larger_is_better(self, metric: str) -> bool:
        """The direction of a metric."""
        return metric not in self.smaller_is_better

    def brief_name(self, metric: str) -> str:
        """Its name without the tolerance, for sentences and narrow tables."""
        return self.names[metric].split(" (")[0] if metric == "nsd" else self.names[metric]

    def digits(self, metric: str) -> int:
        """Decimals in tables."""
        return 1 if metric == "hd95" else 3


REGRESSION = Measures(
    {"r2": "R²", "mae": "mean absolute error", "correlation": "correlation"},
    ("mae",),
    ("mae", "correlation"),
    "score",
    "R²",
    0.0,
    "",
)


def measures_of_segmentation(tolerance_mm: float) -> Measures:
    """Of a segmentation whose surfaces may part by so much."""
    return Measures(
        {"dice": "Dice", "iou": "IoU", "hd95": "HD95 (mm)", "nsd": f"surface Dice ({tolerance_mm:g} mm)"},
        tuple(metric for metric, larger in LARGER_IS_BETTER.items() if not larger),
        ("hd95", "nsd"),
        "dice",
        "Dice",
        0.0,
        "Per label",
    )


def measures_of(kind: Kind, classes: int) -> Measures:
    """Of a classification, or of a quantity's prediction."""
    if kind == "regression":
        return REGRESSION
    names = {
        "balanced_accuracy": "balanced accuracy",
        "accuracy": "accuracy",
        "auc": "AUC",
        "f1": "F1",
        "precision": "precision",
        "average_precision": "average precision",
    }
    return Measures(names, (), ("auc", "f1"), "score", "balanced accuracy", 1 / classes, "Recall per class")
