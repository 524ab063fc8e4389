"""Fine-tuning settings for short trainings, as measured; documentation/results/recipe.md has the search.

nnU-Net's SGD wants tens of thousands of steps. Below that AdamW learns in tens of steps, and what decides is that the first
of them do not undo the pretraining.
"""

from __future__ import annotations

from typing import Any

EPOCHS, ITERATIONS = 1000, 250
"""nnU-Net's own length."""

SHORT = 5000
"""Steps; longer trainings keep the published settings (SGD, the trainer's own rate and ramp)."""


def recipe(steps: int, pretrained: bool) -> dict[str, Any]:
    """Settings that suit a length, named as in a study file: `warmup` is a share of the steps. Empty for long trainings.

    Args:
        steps: optimiser steps of the whole training.
        pretrained: whether it starts from weights; the control learns from scratch at the rate that suits it.
    """
    if steps >= SHORT:
        return {}
    if not pretrained:
        return {"optimizer": "adamw", "lr": 1e-2, "average": 4.0}
    return {
        "optimizer": "adamw",
        "lr": 5e-3,
        "warmup": 0.02,
        "average": 4.0,
        "rescale": True,
        "head": "fitted",
    }


def plans_block(epochs: int, iterations: int, pretrained: bool) -> dict[str, Any]:
    """The recipe in the keys of the plans' `"nnssl"` block."""
    asked = recipe(epochs * iterations, pretrained)
    if "warmup" in asked:
        asked["warmup_epochs"] = asked.pop("warmup") * epochs
    if "lr" in asked:
        asked["initial_lr"] = asked.pop("lr")
    return asked
