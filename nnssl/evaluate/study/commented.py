"""A study file with a comment above each entry that needs one."""

from __future__ import annotations

from pathlib import Path

import yaml

from nnssl.evaluate.study.spec import StudyConfig
from nnssl.files import atomic_path

COMMENTS = {
    "dataset": "the labelled target, as nnssl_plan_and_preprocess or nnUNetv2_plan_and_preprocess left it",
    "control": "what the others are compared with",
    "inits": "schedule: warmup, sawtooth, frozen (a diagnosis), scratch, or nnunet (the stock trainer as it is).\n"
    "Also per entry: decoder (pretrained|fresh), lr, optimizer (sgd|adamw), warmup (share of the steps), layer_decay,\n"
    "new_layers_lr (factor on the rate of what is not pretrained), rescale (true|false), head (fitted|random),\n"
    "decay_power, average (power), freeze_stages, min_coverage.\n"
    "{seed} in the name of a file gives every draw a pretraining of its own; one pretraining for all draws is one sample.\n"
    "A control that is compared fairly runs at its own best rate: try several entries with schedule scratch.",
    "counts": "how many labelled ... to train on; see unit",
    "unit": "case, patient (with all its cases), or slice (2D: spread over patients)",
    "seeds": "each seed draws other training cases, the same for every initialisation; fewer than 5 are a first look",
    "steps": "optimiser steps of every training, whatever the count",
    "evaluate_every": "steps between two points of a learning curve (whole validation cases)",
    "training": "subsets are drawn from these",
    "validation": "for the learning curves",
    "test": "for the final figures; an encoder that has seen any of these is refused",
    "tolerance_mm": "within which two surfaces count as the same in the normalised surface Dice",
    "mirroring": "test-time mirroring, as nnU-Net's prediction does; up to 8 times slower",
    "keep_weights": "keep checkpoint_final.pth of every training",
}


CLASSIFICATION = {
    "dataset": "its plans say what the encoder is; its preprocessed cases, unless classify names an npz",
    "classify": "what: labels (CSV) with target and group (columns), or npz. How: method (finetune|linear|mlp|knn),\n"
    "levels, pooling; of finetune lr, head_lr (factor), freeze_epochs, batch_size, weight_decay, augment, flip, and\n"
    "select (last|best: best takes the weights that do best on the validation images, whatever the count).",
    "inits": "schedule scratch is an untrained encoder; init: weights that nnssl reads. With finetune also lr per entry:\n"
    "a control that is compared fairly runs at its own best rate, so try several entries with schedule scratch.",
    "counts": "how many labelled ... to train on, classes in their shares; see unit",
    "unit": "case, or patient (with all its cases)",
    "seeds": "each seed draws other training cases, the same for every initialisation; fewer than 5 are a first look",
    "evaluate_every": "steps between two points of a learning curve (validation cases)",
    "keep_weights": "keep model.pth of every training, for nnssl_classify --predict",
}
UNUSED = ("tolerance_mm", "mirroring")
"""Entries that a classification has no use for."""


def write_commented(study: StudyConfig, path: Path) -> None:
    """Write a study file with a comment above each entry that needs one."""
    content, comments = study.model_dump(exclude_none=True), COMMENTS
    if study.classify is not None:
        comments = {**COMMENTS, **CLASSIFICATION}
        left_out = UNUSED if study.stepwise else (*UNUSED, "steps", "evaluate_every")
        content = {k: v for k, v in content.items() if k not in left_out}
    lines = [f"# A study of nnssl: {len(study.inits)} initialisations. Change what you like; then: nnssl_study run"]
    for key, value in content.items():
        lines += [f"# {line}" for line in comments.get(key, "").splitlines()]
        flow = None if isinstance(value, dict) else True
        lines.append(
            yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, width=116, allow_unicode=True)
            .strip()
            .removeprefix("{")
            .removesuffix("}")
            if flow
            else yaml.safe_dump({key: value}, sort_keys=False, width=116, allow_unicode=True).strip()
        )
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
