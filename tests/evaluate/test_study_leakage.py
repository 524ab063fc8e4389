"""The leakage guard refuses what would flatter a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.study import leakage
from nnssl.evaluate.study.propose import finished
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
    found = leakage.check_pretraining(study(), DIGESTS)["a"]
    assert found.startswith("no scan of 2 cases was seen in pretraining (")


@pytest.mark.parametrize("stage", ["last", "earlier"])
def test_other_scans_of_a_patient_seen_in_pretraining_are_refused(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    seen: dict[str, Any] = {"case_digests": ["55"], "subject_scan_digests": ["22", "44"]}
    later = {"case_digests": ["11"], "subject_scan_digests": None, "init": {"provenance": seen}}
    with_provenance(monkeypatch, seen if stage == "last" else later)
    with pytest.raises(NnsslError, match=r"'a' saw other scans of the patients of 1 of 2 .*as e"):
        leakage.check_pretraining(study(), DIGESTS)


def test_no_more_is_said_of_patients_than_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of earlier versions, and pools without subjects, know nothing of patients; others know their own dataset's."""
    known: dict[str, Any] = {"case_digests": ["11"], "subject_scan_digests": ["22"]}
    with_provenance(monkeypatch, known)
    assert "only where its dataset holds the case" in leakage.check_pretraining(study(), DIGESTS)["a"]
    silent: list[dict[str, Any]] = [{"case_digests": ["11"]}, {"case_digests": ["11"], "subject_scan_digests": None}]
    for provenance in (*silent, *({**known, "init": {"provenance": old}} for old in silent)):
        with_provenance(monkeypatch, provenance)
        found = leakage.check_pretraining(study(), DIGESTS)["a"]
        assert found.endswith("(whether other scans of their patients were is not known)")


def test_what_cannot_be_checked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {})
    assert "does not say" in leakage.check_pretraining(study(), DIGESTS)["a"]
    with_provenance(monkeypatch, {"case_digests": ["44"]})
    assert "no digests" in leakage.check_pretraining(study(), {})["a"]


def test_a_start_from_a_file_that_says_nothing_is_no_clean_history(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {"case_digests": ["11"], "init": {"provenance": {"method": "foreign", "steps": 0}}})
    assert "one that it started from" in leakage.check_pretraining(study(), DIGESTS)["a"]
    with_provenance(monkeypatch, {"case_digests": ["44"], "init": {"provenance": {"method": "foreign", "steps": 0}}})
    with pytest.raises(NnsslError, match="as e"):
        leakage.check_pretraining(study(), DIGESTS)


def test_one_silent_file_does_not_hide_what_another_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretraining for each seed: the first file says nothing, the second has seen a test case."""
    of_seed = {"0": {}, "1": {"case_digests": ["44"]}}
    read = lambda file: SimpleNamespace(provenance=of_seed[file[-1]])  # noqa: E731
    monkeypatch.setattr(leakage, "read_weights", read)
    several = study(seeds=[0, 1], inits={"a": {"init": "/x{seed}"}, "scratch": {"schedule": "scratch"}})
    with pytest.raises(NnsslError, match="as e"):
        leakage.check_pretraining(several, DIGESTS)


def test_cases_without_a_digest_are_not_counted_as_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provenance(monkeypatch, {"case_digests": ["11"]})
    found = leakage.check_pretraining(study(), {"v": "33"})["a"]
    assert found.startswith("no scan of 1 cases was seen in pretraining; 1 have no digest to be known by (")


def test_the_same_voxels_under_two_names() -> None:
    with pytest.raises(NnsslError, match="e of test has the same voxels as t2 of training"):
        leakage.check_duplicates(study(), {**DIGESTS, "e": "22"})
    with pytest.raises(NnsslError, match="e of test has the same voxels as v of validation: take one of them out"):
        leakage.check_duplicates(study(), {**DIGESTS, "e": "33"})
    leakage.check_duplicates(study(), {**DIGESTS, "t2": "11"})
    leakage.check_duplicates(study(), DIGESTS)


def test_a_patient_in_two_parts() -> None:
    with pytest.raises(NnsslError, match=r"one patient is in training \(t1\) and in test \(e\)"):
        leakage.check_subjects(study(), {"t1": "p", "e": "p"})
    with pytest.raises(NnsslError, match=r"one patient is in validation \(v\) and in test \(e\): keep"):
        leakage.check_subjects(study(), {"t1": "p", "t2": "p", "v": "q", "e": "q"})
    leakage.check_subjects(study(), {"t1": "p", "t2": "p", "v": "q", "e": "r"})


def test_a_proposed_study_has_no_voxels_twice() -> None:
    """A twin of a held-out case goes out of the part that learns from it or chooses by it."""
    proposed = study(training=["t0", "t1", "t2"], validation=["v0", "v1"], test=["e0"], counts=[1])
    digests = {"t0": "a", "t1": "b", "t2": "c", "v0": "b", "v1": "d", "e0": "d"}
    with pytest.raises(NnsslError, match="same voxels"):
        leakage.check_duplicates(proposed, digests)
    left, notes = finished(proposed, digests, [])
    assert (left.training, left.validation, left.test) == (["t0", "t2"], ["v0"], ["e0"])
    leakage.check_duplicates(left, digests)
    assert any("left out of validation, because their voxels are in test too: v1" in note for note in notes)
    assert any("left out of training, because their voxels are in validation or test too: t1" in note for note in notes)
