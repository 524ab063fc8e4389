"""Slow and obvious: batch Dice and cross-entropy, voxel by voxel."""

from __future__ import annotations

import itertools
import math

import numpy as np


def dice_ce(logits: np.ndarray, classes: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """1 - mean Dice over the classes that occur, and the mean negative log-probability of the right class."""
    n_classes = logits.shape[1]
    both, predicted, true = [0.0] * n_classes, [0.0] * n_classes, [0.0] * n_classes
    surprises = []
    for b in range(logits.shape[0]):
        for position in itertools.product(*(range(n) for n in logits.shape[2:])):
            if not where[(b, 0, *position)]:
                continue
            raw = [math.exp(float(logits[(b, k, *position)])) for k in range(n_classes)]
            answer = int(classes[(b, *position)])
            surprises.append(-math.log(raw[answer] / sum(raw)))
            true[answer] += 1
            both[answer] += raw[answer] / sum(raw)
            for k in range(n_classes):
                predicted[k] += raw[k] / sum(raw)
    dice = [2 * both[k] / (predicted[k] + true[k]) for k in range(n_classes) if true[k] > 0]
    return 1 - sum(dice) / len(dice), sum(surprises) / len(surprises)
