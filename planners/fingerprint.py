"""nnU-Net's dataset fingerprint for cases with and without labels.

Same file, same keys, same statistics as nnU-Net's; where a case has no label, its foreground is the body. One block of
our own (`nnssl`) records which cases were usable, what was measured of each, which are unlike the rest, and which were
skipped and why. Every case's measurement lies in a piece of its own until all are done, so an interrupted run goes on
where it stopped and several machines can share the work.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnssl.planners.labels import named_values
from nnssl.planners.measure import CaseFacts, Measurement, measure_case, samples_per_case, statistics
from nnssl.planners.outliers import find_outliers
from nnssl.planners.shards import Shard, run_claimed_cases

from nnssl.data.checked import read_fingerprint
from nnssl.data.claims import claim
from nnssl.data.folders import (
    RawCase,
    all_raw_cases,
    is_labelled_dataset,
    nnunet_folder,
    read_dataset_json,
    why_not_as,
)
from nnssl.data.hounsfield import BIN_WIDTH, LOWEST
from nnssl.data.images import read_case
from nnssl.errors import MissingError, NnsslError
from nnssl.files import write_json

log = logging.getLogger(__name__)

FINGERPRINT = "dataset_fingerprint.json"
PIECES = "nnssl_fingerprint_pieces"
CLAIMS = "claims"
CHECKS = 3  # raise it when a case is checked or measured differently, so that cached fingerprints are made again
LABEL_CHECKS = 1  # the same, where only labels are


def choose_reader(cases: Sequence[RawCase], dataset_json: dict[str, Any]) -> type:
    """nnU-Net's reader class for a dataset, decided on the first case that some reader can open.

    Raises:
        NnsslError: no reader knows the file ending, or none of the cases can be opened.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

    wanted = dataset_json.get("overwrite_image_reader_writer", "None")
    ending = dataset_json["file_ending"]
    if wanted != "None":
        candidates = [recursive_find_reader_writer_by_name(wanted)]
    else:
        candidates = [c for c in LIST_OF_IO_CLASSES if ending.lower() in c.supported_file_endings]
    if not candidates:
        raise NnsslError(f"no nnU-Net reader handles '{ending}' files: convert them or correct file_ending")
    channels = len(dataset_json["channel_names"])
    for case in cases:
        for candidate in candidates:
            try:
                read_case(case.images, candidate(), channels, check_files=True)
            except Exception as error:  # a broken first case must not decide for the dataset; the report names it later
                log.debug("%s cannot read %s: %s", candidate.__name__, case.name, error)
            else:
                return candidate
    raise NnsslError(
        f"none of the {len(cases)} case(s) could be read: are these really '{ending}' images with {channels} channel(s)?"
    )


def extract_fingerprint(dataset_name: str, processes: int, overwrite: bool = False) -> dict[str, Any]:
    """Make (or reuse) the fingerprint of a dataset and save it where nnU-Net looks for it.

    Args:
        dataset_name: folder name below nnUNet_raw.
        processes: worker processes.
        overwrite: recompute although the raw files are unchanged.

    Returns:
        The fingerprint: nnU-Net's keys plus the block `nnssl`, see documentation/reference/files.md.

    Raises:
        NnsslError: no case is usable.
    """
    work = _Work.of(dataset_name)
    target = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name / FINGERPRINT
    if target.is_file() and not overwrite:
        found = read_fingerprint(target)
        if found.get("nnssl", {}).get("source") == work.source:
            log.info("fingerprint of %s is up to date", dataset_name)
            return found
    if overwrite:
        shutil.rmtree(work.pieces, ignore_errors=True)
    measured, skipped = work.measure(work.cases, processes)
    fingerprint = work.merged(measured, skipped)
    if target.is_file() and "nnssl" not in read_fingerprint(target):
        target.replace(target.with_name("dataset_fingerprint_nnunet.json"))  # nnU-Net's own: keep it
    write_json(fingerprint, target)
    shutil.rmtree(work.pieces, ignore_errors=True)
    return fingerprint


def measure_shard(dataset_name: str, processes: int, shard: Shard) -> tuple[int, dict[str, str]]:
    """Measure a job's share of the cases; a later `extract_fingerprint` finds the pieces and measures what is missing.

    Returns:
        How many cases of the share are measured, and the reason for each that cannot be used.
    """
    work = _Work.of(dataset_name)
    target = nnunet_folder("nnUNet_preprocessed") / dataset_name / FINGERPRINT
    if target.is_file() and read_fingerprint(target).get("nnssl", {}).get("source") == work.source:
        log.info("fingerprint of %s is up to date: another job has put it together", dataset_name)
        return len(shard.mine(work.cases)), {}
    measured, skipped = work.measure(shard.mine(work.cases), processes)
    return len(measured), skipped


def current_fingerprint(dataset_name: str) -> dict[str, Any]:
    """The fingerprint as it lies there.

    Raises:
        MissingError: there is none of ours.
        NnsslError: raw files have changed since.
    """
    path = nnunet_folder("nnUNet_preprocessed") / dataset_name / FINGERPRINT
    found = read_fingerprint(path) if path.is_file() else {}
    if "nnssl" not in found:
        raise MissingError(f"{dataset_name} has no fingerprint yet: run nnssl_plan_and_preprocess with --no_pp first")
    made_from, now = str(found["nnssl"].get("source")), _Work.of(dataset_name).source
    if made_from != now:
        files = made_from.partition("-")[0] != now.partition("-")[0]  # behind it: which checks were made
        raise NnsslError(
            (
                f"the raw files of {dataset_name} have changed since its fingerprint"
                if files
                else f"nnssl checks more in {dataset_name} now (labels, names of cases) than when its fingerprint was made"
            )
            + ": run nnssl_plan_and_preprocess with --no_pp (or without flags) again"
        )
    return found


@dataclass(frozen=True)
class _Work:
    """A dataset on its way to a fingerprint; `unusable`: reasons by name, of cases that are not looked at."""

    cases: list[RawCase]
    unusable: dict[str, str]
    dataset_json: dict[str, Any]
    source: str
    pieces: Path

    @classmethod
    def of(cls, dataset_name: str) -> _Work:
        raw = nnunet_folder("nnUNet_raw") / dataset_name
        dataset_json = read_dataset_json(raw / "dataset.json")
        found = all_raw_cases(raw, dataset_json)
        unusable = {case.name: reason for case in found if (reason := why_not_as(case.name))}
        cases = [case for case in found if case.name not in unusable]
        if not cases:
            name, reason = next(iter(unusable.items()))
            raise NnsslError(f"none of the {len(found)} cases of {dataset_name} is usable; the first: {name}: {reason}")
        pieces = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name / PIECES
        return cls(cases, unusable, dataset_json, _state(found, dataset_json), pieces)

    @property
    def channel_names(self) -> list[str]:
        return list(self.dataset_json["channel_names"].values())

    def measure(self, cases: Sequence[RawCase], processes: int) -> tuple[dict[str, Measurement], dict[str, str]]:
        """Measurements and reasons for failure by name; pieces of an earlier, interrupted call are used."""
        samples = samples_per_case(len(self.cases))
        keys = {c.name: f"{_state([c], self.dataset_json)}-{samples}" for c in cases}
        found = {}
        for case in cases:
            piece = Measurement.load(self._piece(case), keys[case.name])
            if piece is not None:
                found[case.name] = piece
        missing = [c for c in cases if c.name not in found]
        if found:
            log.info("fingerprint: %d of %d cases were measured before", len(found), len(cases))
        if not missing:
            return found, {}
        self.pieces.mkdir(parents=True, exist_ok=True)
        work = partial(
            _measure_and_keep,
            keys=keys,
            pieces=self.pieces,
            reader=choose_reader(cases, self.dataset_json),
            channel_names=self.channel_names,
            samples=samples,
            named=named_values(self.dataset_json) if is_labelled_dataset(self.dataset_json) else None,
        )
        locks = [_lock(self.pieces, case) for case in missing]
        results, failures = run_claimed_cases(work, missing, locks, processes, "fingerprint")
        found |= {missing[i].name: result for i, result in results.items()}
        return found, {missing[i].name: reason for i, reason in sorted(failures.items())}

    def _piece(self, case: RawCase) -> Path:
        return self.pieces / f"{case.name}.npz"

    def merged(self, measured: dict[str, Measurement], skipped: dict[str, str]) -> dict[str, Any]:
        """The content of the fingerprint's file."""
        usable = [(c.name, measured[c.name]) for c in self.cases if c.name in measured]
        if not usable:
            name, reason = next(iter(skipped.items()))
            raise NnsslError(f"none of the {len(self.cases)} cases is usable; the first: {name}: {reason}")
        facts = {name: m.facts for name, m in usable}
        intensities = [np.concatenate([m.foreground[c] for _, m in usable]) for c in range(len(self.channel_names))]
        sizes = [np.prod(f.shape_after_crop) / np.prod(f.shape) for f in facts.values()]
        reader = choose_reader([c for c in self.cases if c.name in measured], self.dataset_json)
        return {
            "spacings": [list(f.spacing) for f in facts.values()],
            "shapes_after_crop": [list(f.shape_after_crop) for f in facts.values()],
            "foreground_intensity_properties_per_channel": {str(c): statistics(v) for c, v in enumerate(intensities)},
            "median_relative_size_after_cropping": float(np.median(sizes)),
            "nnssl": {
                "source": self.source,
                "reader": reader.__name__,
                "cases": {name: f.digest for name, f in facts.items()},
                "skipped": {**self.unusable, **skipped},
                "measured": {name: _shown(f) for name, f in facts.items()},
                "outliers": find_outliers(facts, self.channel_names),
                "not_hounsfield": {name: f.not_hounsfield for name, f in facts.items() if f.not_hounsfield},
                "ct_histogram": _summed([m.histograms for _, m in usable]),
            },
        }


def _lock(pieces: Path, case: RawCase) -> Path:
    return pieces / CLAIMS / f"{case.name}.lock"


def _measure_and_keep(case: RawCase, *, keys: dict[str, str], pieces: Path, **how: Any) -> Measurement | None:
    """Measure a case, or find it measured meanwhile; None where another process has it."""
    (pieces / CLAIMS).mkdir(parents=True, exist_ok=True)  # a call that puts the pieces together takes the folder away
    with claim(_lock(pieces, case)) as mine:
        if not mine:
            return None
        piece = pieces / f"{case.name}.npz"
        measurement = Measurement.load(piece, keys[case.name])
        if measurement is None:
            measurement = measure_case(case, **how)
            measurement.save(piece, keys[case.name])
        return measurement


def _shown(facts: CaseFacts) -> dict[str, Any]:
    shown = {k: v for k, v in asdict(facts).items() if k not in ("digest", "not_hounsfield", "misplaced")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in shown.items()}


def _summed(histograms: Sequence[dict[int, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Histograms of CT channels over all cases; every case weighs the same, because as many voxels were drawn of each."""
    return {
        str(c): {
            "low": LOWEST,
            "step": BIN_WIDTH,
            "counts": np.sum([h[c] for h in histograms], axis=0).astype(int).tolist(),
        }
        for c in histograms[0]
    }


def _state(cases: Sequence[RawCase], dataset_json: dict[str, Any]) -> str:
    """What a fingerprint of these cases is made from. Checks of names and labels came later than `CHECKS`, and cost nobody
    his fingerprint who has no such names and labels."""
    names = sum(bool(why_not_as(case.name)) for case in cases)
    labels = LABEL_CHECKS if is_labelled_dataset(dataset_json) and any(case.label for case in cases) else 0
    marks = [f"names{names}"] * bool(names) + [f"labels{labels}"] * bool(labels)
    return "-".join([source_signature(cases, dataset_json), *marks])


def source_signature(cases: Sequence[RawCase], dataset_json: dict[str, Any]) -> str:
    """Changes when a raw file is added, removed, replaced, or the dataset's description changes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        repr((CHECKS, dataset_json["channel_names"], dataset_json["labels"], dataset_json["file_ending"])).encode()
    )
    for case in cases:
        for file in (*case.images, case.label or ""):
            path = Path(file)
            stat = path.stat() if file and path.exists() else None
            digest.update(f"{case.name}|{path.name}|{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()
