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


INF = math.inf


@pytest.mark.parametrize(
    "control,other,expected",
    [
        (100, 25, SpeedUp(4, 4)),
        (100, INF, SpeedUp(0, 0.5, 0, one=1)),
        (INF, 50, SpeedUp(4, INF, 0, one=1)),
        (100, 0, SpeedUp(100, 100)),
        (INF, INF, SpeedUp(0, INF, 0)),
    ],
)
def test_speed_up(control: float, other: float, expected: SpeedUp) -> None:
    """Where one never reached the line, only a bound is known; where neither did, nothing."""
    assert speed_up(control, other, 200) == expected


def exactly(*ratios: float) -> list[SpeedUp]:
    return [SpeedUp(r, r) for r in ratios]


AT_LEAST_3, AT_MOST_3, UNKNOWN = SpeedUp(3, INF, 0), SpeedUp(0, 0.3, 0), SpeedUp(0, INF, 0)


@pytest.mark.parametrize(
    "found,expected",
    [
        (exactly(1, 4, 9), (4, 4, 3, 3)),
        (exactly(1, 4), (2, 2, 2, 2)),
        ([*exactly(1, 2), AT_LEAST_3], (2, 2, 2, 3)),  # whatever it is, the one in the middle is 2
        ([*exactly(1), AT_LEAST_3, AT_LEAST_3], (3, INF, 1, 3)),
        ([AT_MOST_3, AT_LEAST_3], (0, INF, 0, 2)),  # nothing is known of what lies between
        ([SpeedUp(1.11, INF, 0), *exactly(1.5, 2)], (1.5, 2, 2, 3)),  # the bound may lie on the other side
        ([*exactly(0.5, 0.6), SpeedUp(0, 0.9, 0)], (0.5, 0.6, 2, 3)),
        ([UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, *exactly(4)], (0, INF, 1, 5)),  # one draw of five decides nothing
        ([*exactly(1, 1.5, 4), UNKNOWN, UNKNOWN], (1, 4, 3, 5)),
        ([*exactly(3, 1.5, 3.33, 1.33), UNKNOWN], (1.5, 3, 4, 5)),
        ([], (0, INF, 0, 0)),
    ],
)
def test_the_median_lies_wherever_the_unknown_draws_may_put_it(found: list[SpeedUp], expected: tuple) -> None:
    got = median_speed_up(found)
    assert (got.low, got.high) == pytest.approx(expected[:2])
    assert (got.reached, got.draws) == expected[2:]


def test_the_median_holds_whatever_the_hidden_numbers_are() -> None:
    """Speed-ups are drawn, some are hidden behind bounds: the true median is always within what is said."""
    rng = np.random.default_rng(3)
    for _ in range(500):
        true = np.exp(rng.normal(0, 1, rng.integers(1, 8)))
        shown = []
        for r in true:
            low, high = r * np.exp(-rng.exponential()), r * np.exp(rng.exponential())
            shown.append(
                [SpeedUp(r, r), SpeedUp(low, INF, 0), SpeedUp(0, high, 0), SpeedUp(0, INF, 0)][rng.integers(0, 4)]
            )
        got = median_speed_up(shown)
        middle = math.exp(np.median(np.log(true)))
        assert got.low <= middle * (1 + 1e-12)
        assert got.high >= middle * (1 - 1e-12)


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

    def test_scans_of_a_patient_are_drawn_together(self) -> None:
        """Ten scans of each patient say hardly more than one."""
        rng = np.random.default_rng(4)
        patients = np.repeat(np.arange(6), 10)
        table = np.repeat(rng.normal(0, 0.1, 6), 10)[None] + rng.normal(0, 0.001, (5, 60))
        apart, together = bootstrap_mean(table), bootstrap_mean(table, patients.tolist())
        once = bootstrap_mean(table[:, ::10])
        assert together.high - together.low > 2 * (apart.high - apart.low)
        assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.05)
        assert bootstrap_mean(table, list(range(60))) == apart

    def test_cases_without_a_value_are_left_out(self) -> None:
        assert bootstrap_mean(np.array([[1, np.nan], [3, np.nan]])).mean == 2


def test_ranks() -> None:
    scores = np.array([[0.9, 0.8, np.nan], [0.5, 0.8, 1.0], [0.1, 0.1, 0.1]])
    assert mean_ranks(scores).tolist() == [1.25, 1.75, 3]
    assert mean_ranks(scores, larger_is_better=False).tolist() == [2.75, 2.25, 1]


def test_spread() -> None:
    assert spread([1, 3]) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1]))
