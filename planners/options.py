"""What a user may ask of a planner beyond the network's size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannerOptions:
    """Wishes for the plans.

    Attributes:
        spacing: target spacing (Z, Y, X) in mm; `2d` takes (Y, X) of it. None = the planner's rule.
        window: of CT: `wide`, `lung`, `soft`, or bounds (low, high) in HU. None = the planner's rule.
        encoder: timm model as encoder of a 2D U-Net, as `resnet50`; None = nnU-Net's own.
    """

    spacing: tuple[float, ...] | None = None
    window: str | tuple[float, float] | None = None
    encoder: str | None = None
