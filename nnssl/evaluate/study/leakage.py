"""The leakage guard: no test or validation case in pretraining, as far as is known no other scan of their patients either,
and no patient and no voxels in two of the three parts of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnssl.errors import NnsslError
from nnssl.evaluate.study.spec import StudyConfig
from nnssl.transfer.reading import read_weights

PARTS = ("training", "validation", "test")
"""Of the cases of a study."""


def check_subjects(study: StudyConfig, subjects: Mapping[str, str]) -> None:
    """Refuse a patient in two parts.

    Args:
        study: the study.
        subjects: case -> patient, where known.
    """
    side: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for case in getattr(study, part):
            patient = subjects.get(case)
            if patient is None:
                continue
            known = side.setdefault(patient, (part, case))
            if known[0] != part:
                raise NnsslError(
                    f"one patient is in {known[0]} ({known[1]}) and in {part} ({case}): keep patients together"
                )


def check_duplicates(study: StudyConfig, digests: Mapping[str, str]) -> None:
    """Refuse voxels that are in two parts under two names.

    Args:
        study: the study.
        digests: case -> digest of its voxels; empty where the target's fingerprint has none.
    """
    first: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for case in getattr(study, part):
            if case not in digests:
                continue
            known, twin = first.setdefault(digests[case], (part, case))
            if known != part:
                raise NnsslError(f"{case} of {part} has the same voxels as {twin} of {known}: take one of them out")


def check_pretraining(study: StudyConfig, digests: Mapping[str, str]) -> dict[str, str]:
    """Refuse weights whose pretraining saw a validation or test case or another scan of its patient, labels or not.

    A patient is recognised where the pretraining's dataset holds the validation or test case, too, and knew whose it is: the
    file then has its digest in `subject_scan_digests`. No file has names of patients.

    Args:
        study: the study.
        digests: case -> digest of its voxels.

    Returns:
        Initialisation -> what could be checked, for the report.

    Raises:
        NnsslError: an overlap; names the initialisation and one case.
    """
    found, cases = {}, [*study.validation, *study.test]
    for name, init in study.inits.items():
        sources = init.sources(study.seeds)
        if not sources:
            continue
        histories = [ancestry(read_weights(file).provenance) for file in sources.values()]
        told = [[set(p.get("case_digests", ())) for p in history] for history in histories]
        # an overlap that is known counts, whatever else is not known
        _refuse(name, "saw", set[str]().union(*(some for history in told for some in history)), cases, digests)
        scans = [p.get("subject_scan_digests") for history in histories for p in history]
        seen = set[str]().union(*(some for some in scans if some))
        _refuse(name, "saw other scans of the patients of", seen, cases, digests)
        if not all(history and all(history) for history in told):
            found[name] = "not possible: the file, or one that it started from, does not say what it was pretrained on"
        elif not digests:
            found[name] = "not possible: the target's fingerprint holds no digests (nnssl_plan_and_preprocess --no_pp)"
        else:
            found[name] = _unseen(cases, digests, patients=all(some is not None for some in scans))
    return found


def _unseen(cases: Sequence[str], digests: Mapping[str, str], patients: bool) -> str:
    """What may be said of cases that no pretraining saw, and no more than that."""
    known = sum(case in digests for case in cases)
    said = f"no scan of {known} cases was seen in pretraining"
    said += f"; {len(cases) - known} have no digest to be known by" if known < len(cases) else ""
    if patients:
        return f"{said} (other scans of their patients are recognised only where its dataset holds the case, too)"
    return f"{said} (whether other scans of their patients were is not known)"


def _refuse(name: str, what: str, seen: set[str], cases: Sequence[str], digests: Mapping[str, str]) -> None:
    overlap = [case for case in cases if digests.get(case) in seen]
    if overlap:
        raise NnsslError(
            f"initialisation '{name}' {what} {len(overlap)} of {len(cases)} validation and test cases in its pretraining "
            f"(as {overlap[0]}): pretrain without them (nnssl_pretrain -f FOLD)"
        )


def ancestry(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A file's provenance and those of the files it started from."""
    found: list[Mapping[str, Any]] = []
    current: Any = provenance
    while isinstance(current, Mapping) and current:
        found.append(current)
        origin = current.get("init")
        current = origin.get("provenance") if isinstance(origin, Mapping) else None
    return found
