"""Scores under many resamples at once are those of scikit-learn on the drawn cases, one resample after the other."""

from __future__ import annotations

import numpy as np
import pytest

from nnssl.evaluate.classify.resampled import recalls, resamples, scores
from nnssl.evaluate.classify.scores import all_scores, intervals
from nnssl.evaluate.statistics import interval_of_draws, paired_difference, widening

GROUPS = [f"p{i // 2}" for i in range(30)]


def drawn_rows(weights: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(weights)), weights.astype(int))


@pytest.mark.parametrize("classes,ties", [(2, False), (2, True), (3, False), (4, True)])
def test_classes(classes: int, ties: bool) -> None:
    rng = np.random.default_rng(classes)
    known = np.array(list("abcd"[:classes]))
    values = known[rng.integers(0, classes, 30)]
    answers = rng.dirichlet(np.ones(classes), 30)
    answers = np.round(answers * 4) / 4 if ties else answers
    weights = resamples(GROUPS, 40)
    found = scores(values, answers, "classes", known, weights)
    for i, row in enumerate(weights):
        rows = drawn_rows(row)
        for name, value in all_scores(values[rows], answers[rows], "classes", known).items():
            assert found[name][i] == pytest.approx(value, nan_ok=True), name


def test_quantities() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(50, 3, 30)
    answers = values + rng.normal(size=30)
    weights = resamples(GROUPS, 40)
    found = scores(values, answers, "regression", np.array([]), weights)
    for i, row in enumerate(weights):
        rows = drawn_rows(row)
        for name, value in all_scores(values[rows], answers[rows], "regression", np.array([])).items():
            assert found[name][i] == pytest.approx(value), name


def test_whole_patients_are_drawn() -> None:
    weights = resamples(GROUPS, 50)
    assert np.array_equal(weights[:, ::2], weights[:, 1::2])
    assert (weights.sum(1) == 30).all()


def test_a_class_that_no_case_has() -> None:
    values, known = np.array(["a"] * 6), np.array(["a", "b"])
    found = scores(values, np.tile([0.9, 0.1], (6, 1)), "classes", known, np.ones((1, 6)))
    assert found["accuracy"][0] == 1
    assert np.isnan(found["auc"][0])
    assert np.isnan(intervals(values, np.tile([0.9, 0.1], (6, 1)), list("uvwxyz"), "classes", known)["auc"][0])
    assert np.isnan(recalls(values, np.tile([0.9, 0.1], (6, 1)), known)[1])


def test_intervals_hold_draws_and_cases() -> None:
    """For a mean over cases both bootstraps are one and the same."""
    table = np.random.default_rng(3).normal(0.2, 1, (5, 40)) + np.arange(5)[:, None]
    weights = resamples([str(i) for i in range(40)], 4000)
    resampled = table @ weights.T / 40
    ours, reference = (
        interval_of_draws(table.mean(1), resampled, widening(40)),
        paired_difference(table, np.zeros_like(table)),
    )
    assert ours.mean == pytest.approx(reference.mean)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=0.1)
    assert np.isnan(interval_of_draws([0.5], resampled[:1], 1).low)
