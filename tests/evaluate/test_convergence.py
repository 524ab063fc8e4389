"""Convergence: known curves, censoring, and what must not change the answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnssl.evaluate.convergence import SpeedUp, area, median_speed_up, smooth, speed_up, steps_to
from nnssl.evaluate.statistics import Estimate, interval_of_draws, mean_ranks, paired_difference, spread, widening

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


def mean_of(table: np.ndarray, **more: Any) -> Estimate:
    return paired_difference(table, 0 * table, **more)


class TestInterval:
    @pytest.mark.parametrize("draws", [2, 3, 5])
    @pytest.mark.parametrize("of_draws,of_cases", [(1, 0), (0, 1), (1, 1)])
    def test_holds_the_truth_as_often_as_it_says(self, draws: int, of_draws: float, of_cases: float) -> None:
        """Symmetric chance of draws, of cases, of both, also few: a plain bootstrap has it in 76 of 100 with three draws."""
        rng = np.random.default_rng(draws)
        studies, inside = 200, 0
        for trial in range(studies):
            table = rng.normal(0, of_draws, (draws, 1)) + rng.normal(0, of_cases, (1, 4))
            found = mean_of(table + rng.normal(0, 0.001, (draws, 4)), seed=trial)
            inside += found.low <= 0 <= found.high
        assert inside >= 0.89 * studies  # 95 %, less what 200 studies may be off

    def test_is_not_wider_than_it_must_be(self) -> None:
        """Of many draws and cases it is that of the normal distribution."""
        table = np.random.default_rng(5).normal(size=(60, 1)) + np.zeros((1, 200))
        found = mean_of(table)
        assert found.high - found.low == pytest.approx(2 * 1.96 * table.std() / math.sqrt(60), rel=0.1)

    def test_repeats(self) -> None:
        table = np.random.default_rng(1).normal(size=(5, 7))
        assert mean_of(table) == mean_of(table.copy())

    def test_draws_that_differ_widen_it(self) -> None:
        cases = np.random.default_rng(2).normal(0, 0.01, (5, 30))
        same = mean_of(cases)
        apart = mean_of(cases + np.linspace(-1, 1, 5)[:, None])
        assert apart.high - apart.low > 20 * (same.high - same.low)

    def test_one_draw_has_no_interval(self) -> None:
        found = mean_of(np.array([[0.2, 0.4]]))
        assert found.mean == pytest.approx(0.3)
        assert math.isnan(found.low)
        assert not found.excludes_zero

    def test_a_draw_without_any_value_is_none(self) -> None:
        found = mean_of(np.array([[0.2, 0.4], [math.nan, math.nan]]))
        assert found.mean == pytest.approx(0.3)
        assert math.isnan(found.low)

    def test_draws_and_cases_that_are_all_alike_have_no_width(self) -> None:
        assert mean_of(np.full((5, 8), 0.1)) == Estimate(*3 * [pytest.approx(0.1)], 5)

    def test_scans_of_a_patient_are_drawn_together(self) -> None:
        """Ten scans of each patient say hardly more than one."""
        rng = np.random.default_rng(4)
        patients = np.repeat(np.arange(6), 10)
        table = np.repeat(rng.normal(0, 0.1, 6), 10)[None] + rng.normal(0, 0.001, (5, 60))
        apart, together = mean_of(table), mean_of(table, groups=patients.tolist())
        once = mean_of(table[:, ::10])
        assert together.high - together.low > 2 * (apart.high - apart.low)
        assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.05)
        assert mean_of(table, groups=list(range(60))) == apart

    def test_cases_without_a_value_are_left_out(self) -> None:
        assert mean_of(np.array([[1, np.nan], [3, np.nan]])).mean == 2

    def test_what_few_patients_have_is_of_few_patients(self) -> None:
        """Forty test cases do not help where three of them show the label."""
        rng = np.random.default_rng(6)
        table = np.full((5, 40), math.nan)
        table[:, :3] = rng.normal(0, 1, 3) + rng.normal(0, 0.001, (5, 3))
        assert mean_of(table) == mean_of(table[:, :3])
        spread_of_three = table[0, :3].std(ddof=1) / math.sqrt(3)
        assert mean_of(table).high - mean_of(table).low > 2 * 3 * spread_of_three

    def test_one_patient_has_no_interval(self) -> None:
        found = mean_of(np.random.default_rng(7).normal(size=(5, 8)), groups=[3] * 8)
        assert (found.draws, math.isnan(found.low)) == (5, True)
        assert mean_of(np.full((5, 8), math.nan)).draws == 0

    def test_one_patient_on_one_side_has_no_interval_either(self) -> None:
        many, one = np.zeros((5, 3)), np.full((5, 3), math.nan)
        one[:, 0] = 0.5
        for found in (paired_difference(many, one), paired_difference(one, many)):
            assert (abs(found.mean), found.draws, math.isnan(found.low)) == (0.5, 5, True)

    def test_what_resamples_are_off_by_does_not_grow(self) -> None:
        """Scores of classes are lower in resamples that lack one: the interval stays around the estimate."""
        resampled = np.random.default_rng(8).normal(0.25, 0.02, (3, 1000))
        found = interval_of_draws([0.30, 0.301, 0.302], resampled, 1.1)
        assert found.low < 0.301 < found.high

    def test_each_side_is_over_what_it_has(self) -> None:
        """A case that one side has no value for does not hide what the other one did there."""
        first, second = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, np.nan], [1.0, np.nan]])
        assert paired_difference(first, second).mean == -0.5


def test_widening_is_students() -> None:
    """4.30 / 1.96 for three, times the root of 3/2, and so on."""
    assert [round(widening(n), 2) for n in (3, 5, 10)] == [2.69, 1.58, 1.22]
    assert math.isnan(widening(1))
    assert widening(10_000) == pytest.approx(1, abs=1e-3)


def test_ranks() -> None:
    scores = np.array([[0.9, 0.8, np.nan], [0.5, 0.8, 1.0], [0.1, 0.1, 0.1]])
    assert mean_ranks(scores).tolist() == [1.25, 1.75, 3]
    assert mean_ranks(scores, larger_is_better=False).tolist() == [2.75, 2.25, 1]
    assert mean_ranks(np.array([[math.inf], [0.2], [math.inf]])).tolist() == [1.5, 3, 1.5]


def test_spread() -> None:
    assert spread([1, 3]) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1]))
