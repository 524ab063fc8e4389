"""Which labelled cases a cell trains on: nested in its seed, whole patients first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnssl.errors import NnsslError
from nnssl.evaluate.strata import stratified_order


def ordered_patients(training: Sequence[str], subjects: Mapping[str, str], seed: int) -> list[list[str]]:
    """Patients in the order of a seed, each with its cases; a smaller draw is the beginning of a larger one.

    Args:
        training: names of the cases to draw from.
        subjects: case -> patient, where known; other cases are patients of their own.
        seed: of the order.
    """
    patients: dict[str, list[str]] = {}
    for case in sorted(training):
        patients.setdefault(subjects.get(case) or f"case {case}", []).append(case)
    names = sorted(patients)
    return [patients[names[i]] for i in np.random.default_rng(seed).permutation(len(names))]


def stratified_patients(
    training: Sequence[str], groups: Mapping[str, str], strata: Mapping[str, int], seed: int
) -> list[list[str]]:
    """As `ordered_patients`, but so that every beginning shows the strata in their shares, each at least once.

    Args:
        training: names of the cases to draw from.
        groups: case -> patient.
        strata: case -> number of its stratum, see `nnssl.evaluate.strata`.
        seed: of the order.
    """
    names = sorted(training)
    patients: dict[str, list[str]] = {}
    for case in names:
        patients.setdefault(groups[case], []).append(case)
    order = stratified_order([groups[c] for c in names], np.array([strata[c] for c in names]), seed)
    return [patients[name] for name in order]


def draw(patients: Sequence[Sequence[str]], count: int, unit: str) -> list[str]:
    """The first cases of an order.

    Args:
        patients: as `ordered_patients` gives them.
        count: how many.
        unit: `case`, or `patient` with all of its cases.

    Raises:
        NnsslError: there are fewer.
    """
    if unit == "patient":
        if count > len(patients):
            raise NnsslError(f"{count} patients are asked for, there are {len(patients)} to draw from")
        return [case for patient in patients[:count] for case in patient]
    cases = [case for patient in patients for case in patient]
    if count > len(cases):
        raise NnsslError(f"{count} cases are asked for, there are {len(cases)} to draw from")
    return cases[:count]


def draw_slices(
    patients: Sequence[Sequence[str]], slices: Mapping[str, Sequence[int]], count: int, seed: int
) -> dict[str, list[int]]:
    """Labelled slices, spread over the patients: one of each in turn, so that few slices show many patients.

    Args:
        patients: in the order of the seed.
        slices: case -> numbers of its labelled slices.
        count: how many in all.
        seed: of the order within a patient.

    Returns:
        Case -> chosen slices, sorted. The first `n` of one seed are part of the first `n + 1`.

    Raises:
        NnsslError: there are fewer.
    """
    rng = np.random.default_rng([seed, 1])
    queues = []
    for patient in patients:
        pairs = [(case, number) for case in patient for number in slices[case]]
        queues.append([pairs[i] for i in rng.permutation(len(pairs))])
    total = sum(len(q) for q in queues)
    if count > total:
        raise NnsslError(f"{count} slices are asked for, there are {total} labelled ones to draw from")
    order = [q[turn] for turn in range(max(map(len, queues), default=0)) for q in queues if turn < len(q)]
    chosen: dict[str, list[int]] = {}
    for case, number in order[:count]:
        chosen.setdefault(case, []).append(number)
    return {case: sorted(numbers) for case, numbers in chosen.items()}
