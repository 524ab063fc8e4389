from __future__ import annotations

from dataclasses import replace

import pytest
from nnssl.planners.measure import CaseFacts
from nnssl.planners.outliers import find_outliers


def case(i: int = 0, **changes: object) -> CaseFacts:
    """A T1 brain like the others: a little wider and a little brighter from case to case."""
    intensity = {
        "min": 0.0,
        "percentile_00_5": 10.0,
        "median": 400.0 + 10 * (i % 7),
        "percentile_99_5": 900.0 + 30 * (i % 7),
        "max": 1500.0,
        "mean": 410.0,
        "std": 90.0,
    }
    facts = CaseFacts(
        shape=(150 + i % 5, 200, 180),
        shape_after_crop=(140 + i % 5, 190, 170),
        spacing=(1.0, 1.0, 1.0),
        dtype="int16",
        orientation="LPS",
        foreground_share=0.4 + 0.01 * (i % 5),
        intensity=[intensity],
        digest="",
    )
    return replace(facts, **changes)


def usual(count: int = 20) -> dict[str, CaseFacts]:
    return {f"case_{i:02d}": case(i) for i in range(count)}


def with_intensity(facts: CaseFacts, factor: float) -> CaseFacts:
    return replace(facts, intensity=[{k: v * factor for k, v in facts.intensity[0].items()}])


def test_cases_alike_are_not_remarked() -> None:
    assert find_outliers(usual(), ["T1"]) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spacing": (4.0, 1.0, 1.0)}, "spacing along Z is 4 mm, usual is 1 mm"),
        ({"spacing": (1.0, 0.2, 1.0)}, "spacing along Y is 0.2 mm"),
        ({"shape_after_crop": (140, 190, 20)}, "20 mm long along X, usual is 170 mm"),
        ({"foreground_share": 0.01}, "the body fills 0.01 of the image"),
        ({"orientation": "RAS"}, "orientation RAS, usual is LPS (20 of 21 cases)"),
        ({"dtype": "uint8"}, "voxel type uint8, usual is int16"),
    ],
)
def test_a_strange_case_is_named_with_what_is_usual(changes: dict, words: str) -> None:
    found = find_outliers(usual() | {"odd": case(0, **changes)}, ["T1"])
    assert list(found) == ["odd"]
    assert words in "; ".join(found["odd"])


def test_intensities_of_another_scale_are_remarked() -> None:
    found = find_outliers(usual() | {"odd": with_intensity(case(), 1000)}, ["T1"])
    assert list(found) == ["odd"]
    assert "intensities of T1 span" in found["odd"][0]


def test_ct_is_compared_in_hounsfield_units() -> None:
    """A median of 400 against 40 HU is another organ or no CT; a factor of five says nothing around zero."""
    near = {n: replace(f, intensity=[f.intensity[0] | {"median": v}]) for (n, f), v in zip(usual().items(), range(20))}
    fine = replace(case(), intensity=[case().intensity[0] | {"median": 150.0}])
    odd = replace(case(), intensity=[case().intensity[0] | {"median": 800.0}])
    assert find_outliers(near | {"fine": fine}, ["CT"]) == {}
    assert "median intensity 800 HU" in find_outliers(near | {"odd": odd}, ["CT"])["odd"][0]


def test_a_second_kind_of_data_is_no_outlier() -> None:
    """A fifth of the pool with slices of 5 mm instead of 10: that is what the pool is like."""
    mixed = {
        n: replace(f, spacing=(5.0 if i % 5 == 0 else 10.0, 1.5, 1.5)) for i, (n, f) in enumerate(usual(30).items())
    }
    assert find_outliers(mixed, ["MRI"]) == {}


def test_few_cases_have_no_usual_value() -> None:
    few = usual(3) | {"odd": case(0, spacing=(9.0, 1.0, 1.0))}
    assert find_outliers(few, ["T1"]) == {}


def test_wrong_units_are_named_however_few_cases_there_are() -> None:
    assert "no Hounsfield units" in find_outliers({"a": case(0, not_hounsfield="8 bit")}, ["CT"])["a"][0]
