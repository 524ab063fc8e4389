from __future__ import annotations

import numpy as np
import pytest

from nnssl.data.passes import CasePasses


def counts(passes: CasePasses, turns: int) -> np.ndarray:
    """(turns, cases) how often each case is drawn in each pass."""
    n = passes.count
    return np.array([np.bincount([passes(t * n + i) for i in range(n)], minlength=n) for t in range(turns)])


def test_equal_weights_are_the_permutations_that_runs_have_always_had() -> None:
    """Old runs must see the same cases: the order is numpy's permutation of (seed, stream, 0, pass)."""
    passes = CasePasses(7, (), (3, 0))
    drawn = [passes(n) for n in range(21)]
    expected = np.concatenate([np.random.default_rng((3, 0, 0, turn)).permutation(7) for turn in range(3)])
    assert drawn == expected.tolist()


@pytest.mark.parametrize("kind", ["rare", "skewed", "mild", "halves"])
def test_every_pass_has_floor_or_ceil_of_what_is_expected(kind: str) -> None:
    """Of each case, and of each run of neighbours (a subject, a dataset); and the sum over passes stays close."""
    rng = np.random.default_rng(1)
    weights = {
        "rare": np.r_[np.full(3, 50.0), np.ones(37)],
        "skewed": rng.gamma(0.3, 1, 40) + 1e-6,
        "mild": rng.uniform(0.9, 1.1, 40),
        "halves": np.tile([1.0, 0.5], 20),
    }[kind]
    expected = 40 * weights / weights.sum()
    drawn = counts(CasePasses(40, tuple(weights), (0, 0)), 300)
    assert (np.abs(drawn - expected) < 1).all()
    for low, high in ((0, 7), (7, 21), (21, 40)):
        assert (np.abs(drawn[:, low:high].sum(1) - expected[low:high].sum()) < 1).all(), "subjects and datasets, too"
    drift = np.abs(np.cumsum(drawn, axis=0) - np.arange(1, 301)[:, None] * expected)
    assert drift.max() < 4, "independent draws would drift by about the square root of the number of draws"
    assert np.abs(drawn.mean(0) - expected).max() < 0.02


def test_a_draw_does_not_depend_on_the_draws_before() -> None:
    weights = tuple(np.random.default_rng(0).uniform(0.1, 3, 11))
    forwards = CasePasses(11, weights, (5, 1))
    expected = [forwards(n) for n in range(110)]
    backwards = CasePasses(11, weights, (5, 1))
    assert [backwards(n) for n in reversed(range(110))][::-1] == expected
    assert [CasePasses(11, weights, (6, 1))(n) for n in range(110)] != expected


def test_a_heavy_case_is_spread_over_the_pass() -> None:
    passes = CasePasses(1000, (*np.full(10, 99.0), *np.ones(990)), (0, 0))
    heavy = np.array([passes(n) < 10 for n in range(1000)])
    assert 450 < heavy.sum() < 550
    assert 30 < heavy[:100].sum() < 70, "shuffled, not in blocks"
