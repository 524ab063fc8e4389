"""nnU-Net's dataset fingerprint for cases with and without labels.

Same file, same keys, same statistics as nnU-Net's; where a case has no label, its foreground is the body. One block of
our own (`nnssl`) records which cases were usable, their voxel digests, and which were skipped and why.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.folders import RawCase, nnunet_folder, raw_cases, read_dataset_json
from nnssl.data.images import body_mask, read_case, voxel_digest
from nnssl.data.parallel import Failure, run_cases
from nnssl.errors import NnsslError
from nnssl.files import read_json, write_json

log = logging.getLogger(__name__)

FINGERPRINT = "dataset_fingerprint.json"
TOTAL_SAMPLES = 1e8  # nnU-Net's number of foreground intensities over the whole dataset
# nnU-Net draws all of them however few cases there are (16 million from each of six); percentiles settle far earlier.
CASE_SAMPLES = 200_000
CHECKS = 1  # raise it when a case is checked or measured differently, so that cached fingerprints are made again


@dataclass(frozen=True)
class CaseFingerprint:
    """What one case contributes: shape (voxels) after cropping, spacing (mm), sampled foreground intensities."""

    shape_after_crop: tuple[int, ...]
    spacing: tuple[float, ...]
    intensities: np.ndarray  # (C, samples)
    relative_size: float
    digest: str


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


def analyze_case(
    case: RawCase, *, reader: type, channel_names: Sequence[str], samples: int, has_classes: bool
) -> CaseFingerprint:
    """Fingerprint of one case; raises Failure (or a reader's own error) when it is not usable."""
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    data, properties = read_case(case.images, reader(), len(channel_names), check_files=True)
    digest = voxel_digest(data)
    if case.label and has_classes:
        seg, _ = reader().read_seg(case.label)
        if seg.shape[1:] != data.shape[1:]:
            raise Failure(f"label shape {seg.shape[1:]} differs from image shape {data.shape[1:]}")
        foreground = seg[0] > 0
    else:
        foreground = body_mask(data, channel_names)
    cropped, _, bbox = crop_to_nonzero(data, None)
    inside = foreground[tuple(slice(*b) for b in bbox)]
    rng = np.random.RandomState(1234)  # nnU-Net's seed
    picked = [_draw(channel[inside], samples, rng) for channel in cropped]
    return CaseFingerprint(
        tuple(int(n) for n in cropped.shape[1:]),
        tuple(float(s) for s in properties["spacing"]),
        np.stack(picked),
        float(np.prod(cropped.shape[1:]) / np.prod(data.shape[1:])),
        digest,
    )


def _draw(values: np.ndarray, samples: int, rng: np.random.RandomState) -> np.ndarray:
    """Sample intensities with replacement as nnU-Net does, so that every case counts the same; none from no voxels."""
    return rng.choice(values, samples, replace=True) if values.size else np.empty(0, np.float32)


def extract_fingerprint(dataset_name: str, processes: int, overwrite: bool = False) -> dict[str, Any]:
    """Make (or reuse) the fingerprint of a dataset and save it where nnU-Net looks for it.

    Args:
        dataset_name: folder name below nnUNet_raw.
        processes: worker processes.
        overwrite: recompute although the raw files are unchanged.

    Returns:
        The fingerprint: nnU-Net's keys plus `nnssl` = {source, cases: {name: digest}, skipped: {name: reason}}.

    Raises:
        NnsslError: no case is usable.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset_name
    target = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name / FINGERPRINT
    dataset_json = read_dataset_json(raw / "dataset.json")
    cases = raw_cases(raw, dataset_json)
    source = _source_signature(cases, dataset_json)
    if target.is_file() and not overwrite:
        found = read_json(target)
        if found.get("nnssl", {}).get("source") == source:
            log.info("fingerprint of %s is up to date", dataset_name)
            return found
    fingerprint = _compute(cases, dataset_json, processes)
    fingerprint["nnssl"]["source"] = source
    if target.is_file() and "nnssl" not in read_json(target):
        target.replace(target.with_name("dataset_fingerprint_nnunet.json"))  # nnU-Net's own: keep it
    write_json(fingerprint, target)
    return fingerprint


def _compute(cases: Sequence[RawCase], dataset_json: dict[str, Any], processes: int) -> dict[str, Any]:
    from nnssl.data.folders import is_labelled_dataset

    reader = choose_reader(cases, dataset_json)
    names = list(dataset_json["channel_names"].values())
    work = partial(
        analyze_case,
        reader=reader,
        channel_names=names,
        samples=max(1, min(CASE_SAMPLES, int(TOTAL_SAMPLES // len(cases)))),
        has_classes=is_labelled_dataset(dataset_json),
    )
    results, failures = run_cases(work, cases, processes, "fingerprint")
    usable = [(cases[i], results[i]) for i in sorted(results)]
    if not usable:
        raise NnsslError(f"none of the {len(cases)} cases is usable; the first: {cases[0].name}: {failures[0]}")
    prints = [p for _, p in usable]
    intensities = [np.concatenate([p.intensities[c] for p in prints]) for c in range(len(names))]
    return {
        "spacings": [list(p.spacing) for p in prints],
        "shapes_after_crop": [list(p.shape_after_crop) for p in prints],
        "foreground_intensity_properties_per_channel": {str(c): _statistics(v) for c, v in enumerate(intensities)},
        "median_relative_size_after_cropping": float(np.median([p.relative_size for p in prints])),
        "nnssl": {
            "reader": reader.__name__,
            "cases": {case.name: p.digest for case, p in usable},
            "skipped": {cases[i].name: reason for i, reason in sorted(failures.items())},
        },
    }


def _statistics(values: np.ndarray) -> dict[str, float]:
    """nnU-Net's intensity properties of one channel."""
    if values.size == 0:
        raise NnsslError("no foreground voxels in the whole dataset: are the label files empty?")
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def _source_signature(cases: Sequence[RawCase], dataset_json: dict[str, Any]) -> str:
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
