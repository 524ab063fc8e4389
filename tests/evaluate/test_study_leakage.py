"""The leakage guard refuses what would flatter a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.study import leakage
from tests.evaluate.test_study_cells import study

DIGESTS = {"t1": "11", "t2": "22", "v": "33", "e": "44"}


def with_provenance(monkeypatch: pytest.MonkeyPatch, provenance: dict[str, Any]) -> None:
    monkeypatch.setattr(leakage, "read_weights", lambda file: SimpleNamespace(provenance=provenance))


@pytest.mark.parametrize("digest,case", [("33", "v"), ("44", "e")])
def test_seen_cases_are_refused(monkeypatch: pytest.MonkeyPatch, digest: str, case: str) -> None:
    with_provenance(monkeypatch, {"case_digests": ["11", digest]})
    with pytest.raises(NnsslError, match=f"'a' saw 1 of 2 validation and test cases .*as {case}"):
        leakage.check_pretraining(study(), DIGESTS)


def test_cases_seen_by_an_earlier_stage_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {"case_digests": ["11"], "init": {"provenance": {"case_digests": ["44"]}}})
    with pytest.raises(NnsslError, match="as e"):
        leakage.check_pretraining(study(), DIGESTS)


def test_training_cases_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {"case_digests": ["11", "22", "99"]})
    assert leakage.check_pretraining(study(), DIGESTS) == {"a": "none of 2 cases was seen in pretraining"}


def test_what_cannot_be_checked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {})
    assert "does not say" in leakage.check_pretraining(study(), DIGESTS)["a"]
    with_provenance(monkeypatch, {"case_digests": ["44"]})
    assert "no digests" in leakage.check_pretraining(study(), {})["a"]


def test_the_same_voxels_under_two_names() -> None:
    with pytest.raises(NnsslError, match="e of test has the same voxels as t2 of training"):
        leakage.check_duplicates(study(), {**DIGESTS, "e": "22"})
    leakage.check_duplicates(study(), DIGESTS)


def test_a_patient_on_two_sides() -> None:
    with pytest.raises(NnsslError, match=r"one patient is in training \(t1\) and in test \(e\)"):
        leakage.check_subjects(study(), {"t1": "p", "e": "p"})
    leakage.check_subjects(study(), {"t1": "p", "t2": "p", "v": "q", "e": "q"})
