"""Convergence: known curves, censoring, and what must not change the answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnssl.evaluate.convergence import SpeedUp, area, median_speed_up, smooth, speed_up, steps_to
from nnssl.evaluate.statistics import bootstrap_mean, mean_ranks, spread

STEPS = list(range(0, 110, 10))


def test_first_step_from_which_it_stays() -> None:
    rising = [0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert steps_to(STEPS, rising, 0.7) == 50
    assert steps_to(STEPS, rising, 0.81) == math.inf


def test_a_single_peak_is_not_convergence() -> None:
    peak = [0, 0.1, 0.9, 0.1, 0.2, 0.3, 0.5, 0.8, 0.8, 0.8, 0.8]
    assert steps_to(STEPS, peak, 0.7) == 70


def test_a_dip_starts_it_anew() -> None:
    dip = [0, 0.8, 0.8, 0.3, 0.3, 0.3, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert steps_to(STEPS, dip, 0.7) == 60


def test_the_end_needs_no_further_evaluations() -> None:
    assert steps_to(STEPS, [0] * 9 + [0.9, 0.9], 0.7) == 90


def test_smoothing_is_a_median_of_three() -> None:
    assert smooth([0, 9, 1, 2]).tolist() == [0, 1, 2, 2]


def test_area_is_the_mean_height() -> None:
    assert area([0, 10, 20], [0, 1, 1]) == pytest.approx(0.75)
    assert area([0, 100], [0.5, 0.5]) == 0.5


@pytest.mark.parametrize(
    "control,other,expected",
    [
        (100, 25, SpeedUp(4)),
        (100, math.inf, SpeedUp(0.5, "at most")),
        (math.inf, 50, SpeedUp(4, "at least")),
        (100, 0, SpeedUp(100)),
    ],
)
def test_speed_up(control: float, other: float, expected: SpeedUp) -> None:
    assert speed_up(control, other, 200) == expected


def test_neither_reached_it() -> None:
    assert math.isnan(speed_up(math.inf, math.inf, 200).ratio)


def test_median_of_draws() -> None:
    assert median_speed_up([SpeedUp(1), SpeedUp(4), SpeedUp(9)]).ratio == pytest.approx(4)
    assert median_speed_up([SpeedUp(1), SpeedUp(4)]).ratio == pytest.approx(2)
    assert median_speed_up([SpeedUp(1), SpeedUp(2), SpeedUp(9, "at least")]) == SpeedUp(2)
    assert median_speed_up([SpeedUp(1), SpeedUp(8, "at least"), SpeedUp(9, "at least")]).censored == "at least"
    assert math.isnan(median_speed_up([SpeedUp(math.nan)]).ratio)


class TestBootstrap:
    def test_covers_a_known_difference(self) -> None:
        rng = np.random.default_rng(0)
        inside = 0
        for trial in range(40):
            table = 0.1 + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, 0.05, (1, 20)) + rng.normal(0, 0.02, (8, 20))
            found = bootstrap_mean(table, seed=trial)
            inside += found.low <= 0.1 <= found.high
        assert 30 <= inside <= 40

    def test_repeats(self) -> None:
        table = np.random.default_rng(1).normal(size=(5, 7))
        assert bootstrap_mean(table) == bootstrap_mean(table.copy())

    def test_draws_that_differ_widen_it(self) -> None:
        cases = np.random.default_rng(2).normal(0, 0.01, (5, 30))
        same = bootstrap_mean(cases)
        apart = bootstrap_mean(cases + np.linspace(-1, 1, 5)[:, None])
        assert apart.high - apart.low > 20 * (same.high - same.low)

    def test_one_draw_has_no_interval(self) -> None:
        found = bootstrap_mean(np.array([[0.2, 0.4]]))
        assert found.mean == pytest.approx(0.3)
        assert math.isnan(found.low)
        assert not found.excludes_zero

    def test_cases_without_a_value_are_left_out(self) -> None:
        assert bootstrap_mean(np.array([[1, np.nan], [3, np.nan]])).mean == 2


def test_ranks() -> None:
    scores = np.array([[0.9, 0.8, np.nan], [0.5, 0.8, 1.0], [0.1, 0.1, 0.1]])
    assert mean_ranks(scores).tolist() == [1.25, 1.75, 3]
    assert mean_ranks(scores, larger_is_better=False).tolist() == [2.75, 2.25, 1]


def test_spread() -> None:
    assert spread([1, 3]) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1]))
