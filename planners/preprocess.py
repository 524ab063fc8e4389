"""nnU-Net's preprocessing, case by case, with and without labels; broken cases are reported, never fatal.

Where the files go: cases that nnU-Net may train on (with a label, or all cases of a dataset without any labels) lie in
the configuration's own folder. The unlabelled cases of a partly labelled dataset lie in a folder beside it: in one
folder, `nnUNetv2_train ... all` would take them for empty background.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnssl.planners.fingerprint import source_signature
from nnssl.planners.planner import LEFT_OUT
from nnssl.planners.records import Records, case_key
from nnssl.planners.shards import Shard, run_claimed_cases
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnssl.data.body import body_mask
from nnssl.data.checksums import checksum_of
from nnssl.data.claims import claim
from nnssl.data.folders import RawCase, is_labelled_dataset, nnunet_folder, raw_cases, read_dataset_json, why_not_as
from nnssl.data.images import read_case, voxel_digest
from nnssl.data.memory import check_memory
from nnssl.data.parallel import Failure
from nnssl.data.pool import Pool, PoolCase, origin_of, recipe_of, write_pool
from nnssl.data.store import remove_case, remove_other_cases, save_case
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError
from nnssl.files import leftovers

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
        data, seg, body, properties = self.prepare(data, seg, properties, plans, configuration, dataset_json)
        save_case(target, data, seg, body, properties, configuration.patch_size, half=case.label is None)
        shape = tuple(int(n) for n in data.shape[1:])
        return PoolCase(
            case.name,
            target.parent.name,
            shape,
            case.label is not None,
            digest,
            len(body),
            checksum=checksum_of(target),
        )

    def prepare(
        self,
        data: np.ndarray,
        seg: np.ndarray | None,
        properties: dict[str, Any],
        plans: PlansManager,
        configuration: ConfigurationManager,
        dataset_json: dict,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """The steps for one case in memory.

        Args:
            data: (C, Z, Y, X) as `read_case` returns it.
            seg: (1, Z, Y, X) labels, or None.
            properties: with `spacing` (Z, Y, X) in mm.

        Returns:
            Image (C, Z, Y, X), labels (1, Z, Y, X; -1 outside the non-zero region), body positions (K, 3), properties.

        Raises:
            Failure: the case is not usable.
        """
        _check_extent(data.shape[1:], properties["spacing"], plans.transpose_forward, configuration.spacing)
        channel_names = list(dataset_json["channel_names"].values())
        mask = body_mask(data, channel_names, properties["spacing"]).transpose(plans.transpose_forward)
        if seg is None:
            configuration = _WithoutLabels(configuration.configuration)
        with contextlib.redirect_stdout(io.StringIO()):
            data, seg, properties = self.run_case_npy(data, seg, properties, plans, configuration, dataset_json)
        if not np.isfinite(data).all():
            raise Failure("normalisation gave NaN or infinite values")
        properties.setdefault("class_locations", {})
        return data, seg, _body_positions(mask, properties, data.shape[1:]), properties


def _check_extent(
    shape: Sequence[int], spacing: Sequence[float], transpose: Sequence[int], target: Sequence[float]
) -> None:
    """Refuse an image of which the target spacing leaves nothing: a single thin slice in a 3D pool, say; or too much."""
    axes = list(transpose)[-len(target) :]  # fewer numbers than axes: the first axis keeps its slices
    resampled = list(shape)
    for axis, wanted in zip(axes, target):
        resampled[axis] = round(shape[axis] * spacing[axis] / wanted)
        if resampled[axis] < 1:
            raise Failure(
                f"{shape[axis]} voxel(s) of {spacing[axis]:.3g} mm along {'ZYX'[axis]} are nothing at the plans' "
                f"{wanted:.3g} mm: use the case in a 2d configuration, or leave it out"
            )
    check_memory(resampled, "resampled to the plans' spacing, ")


class _WithoutLabels(ConfigurationManager):
    """A configuration for cases without labels: what nnU-Net then resamples as one only says where the image is zero.

    Its class-by-class spline interpolation would take longer than that of the image.
    """

    @property
    def resampling_fn_seg(self) -> Callable[..., np.ndarray]:
        return nearest


def nearest(seg: np.ndarray, new_shape: Sequence[int], *_spacings: Any) -> np.ndarray:
    """(1, Z, Y, X) at a new shape, each voxel from the nearest one."""
    for axis, (old, new) in enumerate(zip(seg.shape[1:], new_shape), start=1):
        if old != new:
            seg = seg.take(np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1), axis=axis)
    return seg


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
    counts = np.array([np.count_nonzero(plane) for plane in cropped])
    size = int(counts.sum())
    if size == 0:
        return np.empty((0, 3), np.int32)
    # a list of all body voxels would be 2 GB for a large CT; numbers in it are drawn instead, and found plane by plane
    picked = np.sort(np.random.default_rng(0).choice(size, min(BODY_POSITIONS, size), replace=False))
    before = np.cumsum(counts) - counts
    planes = np.searchsorted(before + counts, picked, side="right")
    positions = np.empty((len(picked), 3), np.int64)
    for z in np.unique(planes):
        of_plane = planes == z
        rows, columns = np.divmod(np.flatnonzero(cropped[z])[picked[of_plane] - before[z]], cropped.shape[2])
        positions[of_plane] = np.stack([np.full_like(rows, z), rows, columns], axis=1)
    scale = np.asarray(shape) / np.asarray(cropped.shape)
    return np.minimum(((positions + 0.5) * scale).astype(np.int32), np.asarray(shape, np.int32) - 1)


@dataclass(frozen=True)
class Job:
    """One case of one configuration, to be sent to a worker process."""

    case: RawCase
    target: Path
    key: str


def _work(
    job: Job, *, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], records: Records, clean: bool
) -> PoolCase | None:
    """Preprocess a case and record it; None where another process has it."""
    with claim(records.lock(job.case.name)) as mine:
        if not mine:
            return None
        done = None if clean else records.read(job.case.name, job.key)
        if done is None:
            manager = PlansManager(plans)
            records.forget(job.case.name)
            done = nnsslPreprocessor().run_and_save(
                job.case, job.target, manager, manager.get_configuration(configuration), dataset_json
            )
            records.write(done, job.key)
        return done


@dataclass(frozen=True)
class Outcome:
    """What came of preprocessing.

    Attributes:
        cases: stored, in the order of their names, those of earlier calls included.
        failed: case -> reason.
        reused: how many of the cases an earlier call had stored.
    """

    cases: tuple[PoolCase, ...]
    failed: dict[str, str]
    reused: int


def preprocess_cases(
    dataset_name: str,
    plans: dict[str, Any],
    configuration: str,
    fingerprint: dict[str, Any],
    processes: int,
    shard: Shard | None = None,
    clean: bool = False,
) -> Outcome:
    """Preprocess the usable cases of a dataset, or a job's share of them; what is done already is not done again.

    Args:
        dataset_name: folder name below nnUNet_raw.
        plans: of the dataset.
        configuration: `2d`, `3d_fullres`, ...
        fingerprint: of the dataset; names the usable cases.
        processes: worker processes.
        shard: this job's share; None = all cases.
        clean: do everything again.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset_name
    root = nnunet_folder("nnUNet_preprocessed", create=True) / dataset_name
    dataset_json = read_dataset_json(raw / "dataset.json")
    jobs = _jobs(raw, root, dataset_json, plans, configuration, set(fingerprint["nnssl"]["cases"]))
    if shard is not None:
        jobs = shard.mine(jobs)
    records = Records(root, _settings(plans, configuration)["data_identifier"])
    for name in records.names():  # older versions let these overwrite files of the case without the ending
        if why_not_as(name):
            records.forget(name.removesuffix("_seg"))
            records.forget(name)
    kept = {} if clean else {j: c for j in jobs if (c := records.read(j.case.name, j.key)) is not None}
    todo = [job for job in jobs if job not in kept]
    if kept:
        log.info("%s: %d of %d cases are up to date", configuration, len(kept), len(jobs))
    for folder in {records.claims, *(job.target.parent for job in todo)}:
        folder.mkdir(parents=True, exist_ok=True)
    work = partial(
        _work, plans=plans, configuration=configuration, dataset_json=dataset_json, records=records, clean=clean
    )
    locks = [records.lock(job.case.name) for job in todo]
    results, failures = run_claimed_cases(work, todo, locks, processes, f"preprocess {configuration}")
    for i in failures:
        if records.read(todo[i].case.name, todo[i].key) is None:  # else another call, with more memory, could use it
            remove_case(todo[i].target)
    cases = [*kept.values(), *results.values()]
    failed = {todo[i].case.name: reason for i, reason in sorted(failures.items())}
    return Outcome(tuple(sorted(cases, key=lambda c: c.name)), failed, len(kept))


def preprocess_configuration(
    dataset_name: str,
    plans: dict[str, Any],
    configuration: str,
    fingerprint: dict[str, Any],
    processes: int,
    clean: bool = False,
) -> tuple[Pool, dict[str, str]]:
    """Preprocess all usable cases (or find them done), remove what no longer belongs there, write the pool's index.

    Returns:
        The pool, and the reason for every case that failed here.
    """
    outcome = preprocess_cases(dataset_name, plans, configuration, fingerprint, processes, clean=clean)
    if not outcome.cases:
        raise NnsslError(
            f"no case could be preprocessed for {configuration}; the first: {next(iter(outcome.failed.values()))}"
        )
    root = nnunet_folder("nnUNet_preprocessed") / dataset_name
    settings = _settings(plans, configuration)
    _remove_others(root, settings["data_identifier"], outcome.cases)
    subjects = read_subjects(nnunet_folder("nnUNet_raw") / dataset_name, (case.name for case in outcome.cases))
    cases = tuple(replace(case, subject=subjects.get(case.name, "")) for case in outcome.cases)
    pool = Pool(root, cases, origin_of(fingerprint, plans, settings))
    write_pool(pool, settings["data_identifier"])
    return pool, outcome.failed


def _remove_others(root: Path, identifier: str, cases: Sequence[PoolCase]) -> None:
    """Delete stored cases that are not among these: nnU-Net trains on whatever lies in the folder."""
    for folder in (root / identifier, root / f"{identifier}{UNLABELLED}"):
        if folder.is_dir():
            remove_other_cases(folder, (case.name for case in cases if case.folder == folder.name))
            for half_written in leftovers(folder):
                half_written.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
    records = Records(root, identifier)
    for name in records.names() - {case.name for case in cases}:
        records.forget(name)


def _settings(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    return PlansManager(plans).get_configuration(configuration).configuration


def _jobs(
    raw: Path,
    root: Path,
    dataset_json: dict[str, Any],
    plans: dict[str, Any],
    configuration: str,
    usable: set[str],
) -> list[Job]:
    settings = _settings(plans, configuration)
    identifier, recipe = settings["data_identifier"], recipe_of(plans, settings)
    has_classes = is_labelled_dataset(dataset_json)
    left_out = plans.get(LEFT_OUT, {})
    cases = [c for c in raw_cases(raw, dataset_json) if c.name in usable and c.name not in left_out]
    if not has_classes:  # label files of a dataset without classes say nothing
        cases = [RawCase(c.name, c.images, None) for c in cases]
    mixed = any(c.label for c in cases)
    jobs = []
    for case in cases:
        folder = f"{identifier}{UNLABELLED}" if mixed and case.label is None else identifier
        key = case_key(recipe, source_signature([case], dataset_json), case.label is not None, folder)
        jobs.append(Job(case, root / folder / case.name, key))
    return jobs
