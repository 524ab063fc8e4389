"""What is known of each case: from the fingerprint, or, before there is one, from the headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnssl.data.folders import RawCase
from nnssl.errors import shortened
from nnssl.inspect.headers import Geometry, read_headers

MEASURED, UNNAMED, HEADERS = "fingerprint", "an older fingerprint or nnU-Net's", "file headers"
"""Where the facts about cases come from. UNNAMED: spacings and shapes only, nothing else by case."""


@dataclass(frozen=True)
class KnownCase:
    """One usable case; None or empty where nothing is known.

    Attributes:
        name: of the case.
        spacing: (Z, Y, X) mm.
        shape: (Z, Y, X) voxels, raw; after cropping where the fingerprint holds nothing else.
        dtype: type of the voxels on disk.
        orientation: three letters, see `nnssl.data.headers.Header`.
        foreground_share: share of voxels in the body, 0 to 1.
        intensity: per channel `min`, `percentile_00_5`, `median`, `percentile_99_5`, `max`, ... inside the body.
    """

    name: str
    spacing: tuple[float, ...] | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    orientation: str | None = None
    foreground_share: float | None = None
    intensity: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Found:
    """Usable cases, the others with a reason, and where this is known from."""

    cases: list[KnownCase]
    skipped: Mapping[str, str]
    source: str


def cases_from_headers(
    raw: Mapping[str, RawCase], dataset_json: Mapping[str, Any], processes: int, number: str, notes: list[str]
) -> Found:
    """Cases with a readable header; reads one file of each.

    Args:
        raw: raw cases by name.
        dataset_json: of the dataset.
        processes: worker processes.
        number: of the dataset, for the advice.
        notes: a note of missing plans gives way to one that says how to make fingerprint and plans.
    """
    names = list(raw)
    headers, failures = read_headers(list(raw.values()), len(dataset_json["channel_names"]), processes)
    notes[:] = [n for n in notes if not n.startswith("no plans yet")]
    notes.append(
        f"no fingerprint yet, so this is what the headers say: nnssl_plan_and_preprocess -d {number} makes "
        "fingerprint and plans and preprocesses the cases"
    )
    cases = [_case_from_header(names[i], headers[i]) for i in sorted(headers)]
    return Found(cases, {names[i]: reason for i, reason in sorted(failures.items())}, HEADERS)


def cases_from_fingerprint(
    fingerprint: Mapping[str, Any],
    measured: list[KnownCase],
    raw: Mapping[str, RawCase],
    number: str,
    notes: list[str],
) -> Found:
    """Cases of a fingerprint.

    Args:
        fingerprint: ours, an older one of ours, or nnU-Net's.
        measured: its `measured_cases`.
        raw: raw cases by name, to say what has changed.
        number: of the dataset, for the advice.
        notes: collects what is missing or has changed.
    """
    block = fingerprint.get("nnssl") or {}
    cases = measured or _unnamed(fingerprint, raw)
    skipped = block.get("skipped", {})
    if raw and block:
        _compare(raw, cases, skipped, number, notes)
    if not measured:
        notes.append(
            "the fingerprint holds no intensities, orientations and outliers by case: "
            f"nnssl_plan_and_preprocess -d {number} --clean makes it anew"
        )
    return Found(cases, skipped, MEASURED if measured else UNNAMED)


def _case_from_header(name: str, header: Geometry) -> KnownCase:
    return KnownCase(name, header.spacing, header.shape, header.dtype, header.orientation)


def measured_cases(fingerprint: Mapping[str, Any] | None, number: str, notes: list[str]) -> list[KnownCase] | None:
    """Measured cases of a fingerprint, none if it measured none; None without a fingerprint that can be understood.

    Args:
        fingerprint: content of the file, if there is one.
        number: of the dataset, for the advice.
        notes: collects what is wrong with it.
    """
    if fingerprint is None:
        return None
    try:
        block = fingerprint.get("nnssl") or {}
        for name, kind in (("skipped", dict), ("outliers", dict), ("cases", dict), ("ct_histogram", dict)):
            if not isinstance(block.get(name, {}), kind):
                raise TypeError(f"'{name}' is no object")
        return [_measured(name, facts) for name, facts in (block.get("measured") or {}).items()]
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        notes.append(
            f"the fingerprint cannot be understood ({error}): nnssl_plan_and_preprocess -d {number} --clean makes it anew"
        )
        return None


def _unnamed(fingerprint: Mapping[str, Any], raw: Mapping[str, RawCase]) -> list[KnownCase]:
    """Cases of a fingerprint that has nothing but nnU-Net's lists, which are in the order of the names."""
    block = fingerprint.get("nnssl") or {}
    spacings, shapes = fingerprint.get("spacings", []), fingerprint.get("shapes_after_crop", [])
    names = list(block.get("cases", {})) or sorted(name for name, case in raw.items() if case.label)
    if len(names) != len(spacings):  # nnU-Net's own fingerprint of other raw data than there are now
        names = [f"case {i + 1}" for i in range(len(spacings))]
    return [
        KnownCase(name, tuple(float(s) for s in spacing), tuple(int(n) for n in shape))
        for name, spacing, shape in zip(names, spacings, shapes)
    ]


def _measured(name: str, facts: Mapping[str, Any]) -> KnownCase:
    spacing, shape = facts.get("spacing"), facts.get("shape")
    return KnownCase(
        name,
        tuple(float(s) for s in spacing) if spacing else None,
        tuple(int(n) for n in shape) if shape else None,
        facts.get("dtype"),
        facts.get("orientation"),
        facts.get("foreground_share"),
        tuple({k: float(v) for k, v in channel.items()} for channel in facts.get("intensity") or ()),
    )


def _compare(
    raw: Mapping[str, RawCase], cases: Sequence[KnownCase], skipped: Mapping[str, str], number: str, notes: list[str]
) -> None:
    """Say so when the raw folder has changed since the fingerprint was made."""
    known = {case.name for case in cases} | set(skipped)
    new, gone = sorted(set(raw) - known), sorted(known - set(raw))
    if new:
        notes.append(
            f"{len(new)} raw case(s) are not in the fingerprint ({shortened(new)}): "
            f"nnssl_plan_and_preprocess -d {number} takes them up"
        )
    if gone:
        notes.append(f"{len(gone)} case(s) of the fingerprint have no raw images any more ({shortened(gone)})")
