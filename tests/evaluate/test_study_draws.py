"""Draws: nested, by patient, the same for every initialisation, another one per seed."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.study.draws import draw, draw_slices, ordered_patients

CASES = [f"p{i:02d}_{frame}" for i in range(20) for frame in ("ed", "es")]
SUBJECTS = {case: case[:3] for case in CASES}


@pytest.mark.parametrize("unit", ["case", "patient"])
def test_a_smaller_draw_is_part_of_a_larger_one(unit: str) -> None:
    patients = ordered_patients(CASES, SUBJECTS, seed=3)
    draws = [draw(patients, n, unit) for n in (1, 3, 10, 20)]
    for small, large in pairwise(draws):
        assert set(small) < set(large)


def test_counts_are_cases_or_patients() -> None:
    patients = ordered_patients(CASES, SUBJECTS, seed=0)
    assert len(draw(patients, 5, "case")) == 5
    by_patient = draw(patients, 5, "patient")
    assert len(by_patient) == 10
    assert len({SUBJECTS[c] for c in by_patient}) == 5


def test_cases_of_a_patient_stay_together() -> None:
    """Four cases are two patients, not four."""
    found = draw(ordered_patients(CASES, SUBJECTS, seed=1), 4, "case")
    assert len({SUBJECTS[c] for c in found}) == 2


def test_seeds_draw_differently_and_repeat() -> None:
    draws = {seed: tuple(draw(ordered_patients(CASES, SUBJECTS, seed), 6, "case")) for seed in range(10)}
    assert len(set(draws.values())) == 10
    assert draws[4] == tuple(draw(ordered_patients(list(reversed(CASES)), SUBJECTS, 4), 6, "case"))


def test_cases_without_known_patient_are_patients_of_their_own() -> None:
    assert len(ordered_patients(["a", "b", "c"], {"a": "x", "b": "x"}, 0)) == 2


@pytest.mark.parametrize("unit,count", [("case", 41), ("patient", 21)])
def test_more_than_there_are(unit: str, count: int) -> None:
    with pytest.raises(NnsslError, match=f"{count} {unit}s are asked for"):
        draw(ordered_patients(CASES, SUBJECTS, 0), count, unit)


class TestSlices:
    slices: ClassVar = {case: list(range(2, 9)) for case in CASES}

    def test_few_slices_show_many_patients(self) -> None:
        found = draw_slices(ordered_patients(CASES, SUBJECTS, 0), self.slices, 20, seed=0)
        assert len({SUBJECTS[c] for c in found}) == 20

    def test_count_and_nesting(self) -> None:
        patients = ordered_patients(CASES, SUBJECTS, 7)
        small, large = (draw_slices(patients, self.slices, n, seed=7) for n in (15, 60))
        assert sum(map(len, small.values())) == 15
        assert sum(map(len, large.values())) == 60
        assert all(set(numbers) <= set(large[case]) for case, numbers in small.items())

    def test_only_labelled_slices(self) -> None:
        found = draw_slices(ordered_patients(CASES, SUBJECTS, 0), self.slices, 280, seed=0)
        assert {z for numbers in found.values() for z in numbers} == set(range(2, 9))
        with pytest.raises(NnsslError, match="281 slices are asked for, there are 280"):
            draw_slices(ordered_patients(CASES, SUBJECTS, 0), self.slices, 281, seed=0)
