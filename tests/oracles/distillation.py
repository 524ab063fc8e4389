"""Slow and obvious: self-distillation, one pair and one position at a time."""

from __future__ import annotations

import math

import numpy as np


def softmax(scores: np.ndarray) -> list[float]:
    """Of one row."""
    powers = [math.exp(float(s) - float(max(scores))) for s in scores]
    return [p / sum(powers) for p in powers]


def cross_entropy(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """Of the student's row of scores under the teacher's row of probabilities."""
    return -sum(float(q) * math.log(p) for q, p in zip(teacher, softmax(student / temperature)))


def view_distillation(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """Mean over crops and over pairs of a teacher's view and another view of the student."""
    losses = []
    for crop in range(len(student)):
        for t in range(teacher.shape[1]):
            for v in range(student.shape[1]):
                if v != t:
                    losses.append(cross_entropy(teacher[crop, t], student[crop, v], temperature))
    return sum(losses) / len(losses)


def position_distillation(student: np.ndarray, teacher: np.ndarray, weight: np.ndarray, temperature: float) -> float:
    """Weighted mean over crops and positions."""
    total, weights = 0.0, 0.0
    for crop in range(len(student)):
        for position in range(student.shape[1]):
            w = float(weight[crop, position])
            total += w * cross_entropy(teacher[crop, position], student[crop, position], temperature)
            weights += w
    return total / weights
