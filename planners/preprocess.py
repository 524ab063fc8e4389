"""nnU-Net's preprocessing, case by case, with and without labels; broken cases are reported, never fatal.

Where the files go: cases that nnU-Net may train on (with a label, or all cases of a dataset without any labels) lie in
the configuration's own folder. The unlabelled cases of a partly labelled dataset lie in a folder beside it: in one
folder, `nnUNetv2_train ... all` would take them for empty background.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnssl.data.folders import RawCase, is_labelled_dataset, nnunet_folder, raw_cases, read_dataset_json
from nnssl.data.images import body_mask, read_case, voxel_digest
from nnssl.data.parallel import Failure, run_cases
from nnssl.data.pool import Pool, PoolCase, origin_of, write_pool
from nnssl.data.store import save_case
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError
from nnssl.files import atomic_path

log = logging.getLogger(__name__)

BODY_POSITIONS = 2000
UNLABELLED = "_unlabelled"


class nnsslPreprocessor(DefaultPreprocessor):
    """nnU-Net's own steps for one case; adds body positions and voxel digest, writes our store."""

    def __init__(self) -> None:
        super().__init__(verbose=False)

    def run_and_save(
        self, case: RawCase, target: Path, plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict
    ) -> PoolCase:
        """Preprocess one case and write it.

        Args:
            case: raw files; without a label the case is stored for pretraining only.
            target: folder / case name.

        Raises:
            Failure: the case is not usable.
        """
        channel_names = list(dataset_json["channel_names"].values())
        reader = plans.image_reader_writer_class()
        data, properties = read_case(case.images, reader, len(channel_names))
        seg = reader.read_seg(case.label)[0] if case.label else None
        if seg is not None and seg.shape[1:] != data.shape[1:]:
            raise Failure(f"label shape {seg.shape[1:]} differs from image shape {data.shape[1:]}")
        digest = voxel_digest(data)
        mask = body_mask(data, channel_names).transpose(plans.transpose_forward)
        with contextlib.redirect_stdout(io.StringIO()):
            data, seg, properties = self.run_case_npy(data, seg, properties, plans, configuration, dataset_json)
        if not np.isfinite(data).all():
            raise Failure("normalisation gave NaN or infinite values")
        properties.setdefault("class_locations", {})
        body = _body_positions(mask, properties, data.shape[1:])
        save_case(target, data, seg, body, properties, configuration.patch_size, half=case.label is None)
        shape = tuple(int(n) for n in data.shape[1:])
        return PoolCase(case.name, target.parent.name, shape, case.label is not None, digest, len(body))


def _body_positions(mask: np.ndarray, properties: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
    """Sample body voxels of the raw image and carry them to the preprocessed grid.

    Args:
        mask: (Z, Y, X) bool on the transposed raw grid.
        properties: with nnU-Net's `bbox_used_for_cropping`.
        shape: of the preprocessed image.

    Returns:
        (K, 3) int32, K <= BODY_POSITIONS.
    """
    box = properties["bbox_used_for_cropping"]
    cropped = mask[tuple(slice(*b) for b in box)]
    flat = np.flatnonzero(cropped)
    if flat.size == 0:
        return np.empty((0, 3), np.int32)
    picked = np.random.default_rng(0).choice(flat, min(BODY_POSITIONS, flat.size), replace=False)
    positions = np.stack(np.unravel_index(np.sort(picked), cropped.shape), axis=1)
    scale = np.asarray(shape) / np.asarray(cropped.shape)
    return np.minimum(((positions + 0.5) * scale).astype(np.int32), np.asarray(shape, np.int32) - 1)


@dataclass(frozen=True)
class Job:
    """One case of one configuration, to be sent to a worker process."""

    case: RawCase
    target: Path


def _work(job: Job, *, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> PoolCase:
    manager = PlansManager(plans)
    return nnsslPreprocessor().run_and_save(
        job.case, job.target, manager, manager.get_configuration(configuration), dataset_json
    )


def preprocess_configuration(
    dataset_name: str, plans: dict[str, Any], configuration: str, fingerprint: dict[str, Any], processes: int
) -> tuple[Pool, dict[str, str]]:
    """Preprocess the usable cases of a dataset for one configuration and write the pool's index.

    Args:
        dataset_name: folder name below nnUNet_raw.
        plans: of the dataset.
        configuration: `2d`, `3d_fullres`, ...
        fingerprint: of the dataset; names the usable cases.
        processes: worker processes.

    Returns:
        The pool, and the reason for every case that failed here.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset_name
    root = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name
    dataset_json = read_dataset_json(raw / "dataset.json")
    settings = PlansManager(plans).get_configuration(configuration).configuration
    identifier = settings["data_identifier"]
    jobs = _jobs(raw, root, dataset_json, identifier, set(fingerprint["nnssl"]["cases"]))
    for folder in (root / identifier, root / f"{identifier}{UNLABELLED}"):
        if folder.exists():
            shutil.rmtree(folder)  # as nnU-Net does: files of older plans must not mix with new ones
    for folder in {job.target.parent for job in jobs}:
        folder.mkdir(parents=True)
    work = partial(_work, plans=plans, configuration=configuration, dataset_json=dataset_json)
    results, failures = run_cases(work, jobs, processes, f"preprocess {configuration}")
    if not results:
        raise NnsslError(f"no case could be preprocessed for {configuration}; the first: {failures[0]}")
    subjects = read_subjects(raw, (case.name for case in results.values()))
    cases = tuple(replace(results[i], subject=subjects.get(results[i].name, "")) for i in sorted(results))
    pool = Pool(root, cases, origin_of(fingerprint, plans, settings))
    write_pool(pool, identifier)
    return pool, {jobs[i].case.name: reason for i, reason in sorted(failures.items())}


def _jobs(raw: Path, root: Path, dataset_json: dict[str, Any], identifier: str, usable: set[str]) -> list[Job]:
    has_classes = is_labelled_dataset(dataset_json)
    cases = [c for c in raw_cases(raw, dataset_json) if c.name in usable]
    if not has_classes:  # label files of a dataset without classes say nothing
        cases = [RawCase(c.name, c.images, None) for c in cases]
    mixed = any(c.label for c in cases)
    jobs = []
    for case in cases:
        folder = f"{identifier}{UNLABELLED}" if mixed and case.label is None else identifier
        jobs.append(Job(case, root / folder / case.name))
    return jobs


def copy_ground_truth(dataset_name: str, usable: set[str]) -> int:
    """Copy the labels to `gt_segmentations`, where nnU-Net's validation looks for them; returns how many there are."""
    raw = nnunet_folder("nnUNet_raw") / dataset_name
    target = nnunet_folder("nnUNet_preprocessed") / dataset_name / "gt_segmentations"
    dataset_json = read_dataset_json(raw / "dataset.json")
    labelled = [c for c in raw_cases(raw, dataset_json) if c.label and c.name in usable]
    if not is_labelled_dataset(dataset_json) or not labelled:
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for case in labelled:
        destination = target / f"{case.name}{dataset_json['file_ending']}"
        source = Path(str(case.label))
        if not destination.is_file() or source.stat().st_mtime > destination.stat().st_mtime:
            with atomic_path(destination) as path:
                shutil.copyfile(source, path)
    return len(labelled)
