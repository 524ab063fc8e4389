"""Fine-tuning settings for short trainings, as measured; documentation/results/recipe.md has the search.

nnU-Net's SGD wants tens of thousands of steps. Below that AdamW learns in tens of steps, and what decides is that the first
of them do not undo the pretraining.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

EPOCHS, ITERATIONS = 1000, 250
"""nnU-Net's own length."""

WIDTH = 16
"""Features of the first stage that the rates were found at."""

SHORT = 5000
"""Steps; longer trainings keep the published settings (SGD, the trainer's own rate and ramp)."""


def recipe(steps: int, pretrained: bool, width: int = WIDTH) -> dict[str, Any]:
    """Settings that suit a length, named as in a study file: `warmup` is a share of the steps. Empty for long trainings.

    Args:
        steps: optimiser steps of the whole training.
        pretrained: whether it starts from weights. The control from scratch gets the same but for its own best rate.
        width: features of the network's first stage; rates are for 16, wider networks get 16 / width of them, as Adam's
            rates scale (Yang et al. 2022, arXiv 2203.03466).
    """
    if steps >= SHORT:
        return {}
    scale = min(1.0, WIDTH / width)
    shared = {"optimizer": "adamw", "warmup": 0.02, "average": 4.0, "head": "fitted"}
    return {**shared, "lr": 5e-3 * scale, "rescale": True} if pretrained else {**shared, "lr": 1e-2 * scale}


def plans_block(epochs: int, iterations: int, pretrained: bool, width: int) -> dict[str, Any]:
    """The recipe in the keys of the plans' `"nnssl"` block."""
    asked = recipe(epochs * iterations, pretrained, width)
    if "warmup" in asked:
        asked["warmup_epochs"] = asked.pop("warmup") * epochs
    if "lr" in asked:
        asked["initial_lr"] = asked.pop("lr")
    return asked


def first_width(plans: Mapping[str, Any], configuration: str) -> int:
    """Features of the first stage of a plans' configuration; the recipe's own where it does not say."""
    settings = PlansManager(copy.deepcopy(dict(plans))).get_configuration(configuration).configuration
    kwargs = settings.get("architecture", {}).get("arch_kwargs", {})
    return int(next(iter(kwargs.get("features_per_stage", ())), WIDTH))
