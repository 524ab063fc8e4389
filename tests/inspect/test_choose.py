"""Which cases are shown."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from nnssl.data.folders import RawCase
from nnssl.inspect.cases import MEASURED, KnownCase
from nnssl.inspect.choose import LARGE, choose_cases
from nnssl.inspect.facts import Facts, collect


def made_up(count: int, outliers: int) -> Facts:
    """Cases of growing size without any files."""
    cases = tuple(
        KnownCase(f"{i:05d}", (1.0, 1.0, 1.0), (10 + i, 20, 20), foreground_share=0.5, intensity=({"median": -i},))
        for i in range(count)
    )
    raw = {c.name: RawCase(c.name, ("nowhere",), None) for c in cases}
    odd = {f"{i:05d}": ["odd"] for i in range(count - outliers, count)}
    return Facts("Dataset001_A", ("MRI",), (), raw, cases, {}, odd, MEASURED, 0, "SimpleITKIO", 0)


def test_ten_thousand_cases_give_the_wanted_number_evenly_spread() -> None:
    chosen = choose_cases(made_up(10_000, 3), 60)
    assert len(chosen) == 60
    positions = [int(c.name) for c in chosen]
    assert positions == sorted(positions)
    assert max(b - a for a, b in pairwise(positions)) < 2 * 10_000 / 50
    assert sum(c.large for c in chosen) == LARGE


def test_outliers_and_extremes_are_always_there() -> None:
    chosen = {c.name: c.reasons for c in choose_cases(made_up(300, 20), 5)}
    assert {f"{i:05d}" for i in range(280, 290)} <= set(chosen)  # OUTLIERS_PER_CASE * 5 of the 20, and the extremes
    assert "fewest voxels" in chosen["00000"]
    assert "brightest" in chosen["00000"]
    assert "most voxels" in chosen["00299"]
    assert "darkest" in chosen["00299"]
    typical = [n for n, reasons in chosen.items() if "typical" in reasons]
    assert len(typical) == 1
    assert abs(int(typical[0]) - 150) <= 1


def test_ordinary_cases_are_shown_beside_any_number_of_outliers() -> None:
    chosen = choose_cases(made_up(1000, 900), 40)
    assert sum(not c.reasons for c in chosen) == 20


def test_alike_cases_have_no_extremes(hand_made: Callable[..., Path]) -> None:
    def same(content: dict[str, Any]) -> None:
        first = content["nnssl"]["measured"]["case_000"]
        content["nnssl"]["measured"] = dict.fromkeys(content["nnssl"]["measured"], first)
        content["nnssl"]["outliers"] = {}

    hand_made(edit=same)
    assert [r for c in choose_cases(collect("711"), 60) for r in c.reasons] == ["typical"]


def test_cases_without_raw_files_are_not_chosen() -> None:
    facts = made_up(5, 1)
    raw = {n: c for n, c in facts.raw.items() if n != "00004"}
    shown = choose_cases(Facts(**{**vars(facts), "raw": raw}), 60)
    assert [c.name for c in shown] == ["00000", "00001", "00002", "00003"]
    assert choose_cases(facts, 0) == []
