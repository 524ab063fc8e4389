"""What rotation and flip share: change a crop in one of a few ways, and let the encoder say which.

The classes must differ in what the image shows and in nothing else: every class sees a crop of the same size, no voxel is
interpolated, and what lies outside the image after any of the changes is zero before all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Views
from nnssl.networks import PooledEncoder, Pooling
from nnssl.views import Geometry, inside_box, random_spatial

SOLVED = 0.98
PATIENCE = 10
"""Epochs after which guessing is no longer a matter of the start."""


class ViewClassificationConfig(MethodConfig):
    """Options of every such method. There is no mirroring and no rotation: they would change the answer."""

    p_scaling: float = Field(0.2, ge=0, le=1, description="probability of scaling by 0.7-1.4, per crop")
    pooling: Pooling = Field("avgmax", description="of the deepest stage: mean, maximum, or both side by side")


class ViewClassification(Method):
    """Base: the plans' encoder, pooled, and one linear layer. Subclasses say what the classes are.

    Args:
        classes: how many ways of changing a crop there are; number 0 leaves it as it is.
    """

    crops_alone: ClassVar[bool] = True
    config: ViewClassificationConfig

    def __init__(self, unet: nn.Module, geometry: Geometry, channels: int, config: MethodConfig, classes: int) -> None:
        super().__init__(unet, geometry, channels, config)
        self.classes = classes
        self.backbone = PooledEncoder(unet.encoder, self.config.pooling)  # type: ignore[arg-type]
        self.classifier = nn.Linear(self.backbone.width, classes)

    @abstractmethod
    def change(self, x: torch.Tensor, labels: Sequence[int], back: bool = False) -> torch.Tensor:
        """Change sample b of x (B, C, *spatial) as class labels[b] says; `back` undoes it."""

    @abstractmethod
    def unchanged(self, inside: torch.Tensor) -> torch.Tensor:
        """The part of a mask (B, 1, *spatial) that is the same in every class."""

    def views(self, crops: CropBatch, generator: torch.Generator) -> Views:
        """`image` (B, C, *spatial) after the change, `visible` (B, 1, *spatial) bool: not set to zero, `label` (B,)."""
        size = self.read_size()
        x, inside = crops.images, inside_box(crops.inside, size)
        if self.training:
            geometry = Geometry(size, self.geometry.spacing)
            p = self.config.p_scaling
            x, inside = random_spatial(x, inside, geometry, generator, p_flip=0, p_rotation=0, p_scaling=p)
        visible = self.unchanged(inside)
        labels = balanced_labels(x.shape[0], self.classes, generator)
        image = self.change(x * visible, labels.tolist())
        return {"image": image, "visible": visible, "label": labels.to(x.device, non_blocking=True)}

    def forward(self, views: Views) -> Losses:
        """Cross-entropy over the crops that show something."""
        logits = self.classifier(self.backbone(views["image"])).float()
        label = views["label"]
        shows = views["visible"].flatten(1).any(1).float()
        entropy = F.cross_entropy(logits, label, reduction="none")
        total = self.ranks.mean((entropy * shows).sum(), shows.sum())
        correct = (logits.detach().argmax(1) == label).float()
        return Losses(total, {"accuracy": self.ranks.mean((correct * shows).sum(), shows.sum())})

    def exported(self) -> Exported:
        """The encoder; the classifier is thrown away."""
        return Exported(self.backbone.encoder)

    def health(self, row: Mapping[str, float]) -> list[str]:
        """Says so when the task is solved, or not learned at all."""
        accuracy = row.get("val_accuracy")
        if accuracy is None:
            return []
        if accuracy >= SOLVED:
            return [
                f"val_accuracy {accuracy:.2f}: the task is solved and teaches the encoder little from here on; export, or "
                "take a harder task"
            ]
        if row.get("epoch", 0) >= PATIENCE and accuracy < 1.1 / self.classes:
            return [
                f"val_accuracy {accuracy:.2f} is that of guessing (1 in {self.classes}): the images may not show which way "
                "up they are, or the learning rate does not suit (--lr)"
            ]
        return []

    @torch.no_grad()
    def preview(self, views: Views) -> dict[str, torch.Tensor]:
        """The crop, what the network saw, and that undone as its answer says: equal to the first where it is right."""
        answer = self.classifier(self.backbone(views["image"])).argmax(1).tolist()
        image = views["image"]
        return {
            "crop": self.change(image, views["label"].tolist(), back=True),
            "shown to the network": image,
            "put right by its answer": self.change(image, answer, back=True),
        }


def balanced_labels(batch: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    """(B,) int64 on the CPU, in random order: every class as often as any other, or once more."""
    shift = torch.randint(classes, (1,), generator=generator)
    return (torch.randperm(batch, generator=generator) + shift) % classes
