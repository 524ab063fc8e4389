"""The cases a run trains and validates on: one dataset's or several's, split, thinned, weighted."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from nnssl.trainers.alike import Planned, check_planned_alike
from nnssl.trainers.empty_crops import EMPTY_BELOW, intensity_scales
from nnssl.trainers.run_config import RunConfig
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.checked import read_fingerprint
from nnssl.data.checksums import check_sizes
from nnssl.data.cpus import usable_cpus
from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans, resolve_dataset
from nnssl.data.joining import join_pools, without
from nnssl.data.pool import Pool, cases_by_dataset, check_origin, read_pool, read_splits, split_pool
from nnssl.data.slice_hashes import hashes_path, known_slices, slice_hashes, thin, thinning_report
from nnssl.data.subjects import persons, read_subjects
from nnssl.data.weights import balanced, dataset_shares, put_weights, read_weights
from nnssl.errors import MissingError, NnsslError, did_you_mean
from nnssl.files import write_json

if TYPE_CHECKING:
    from nnssl.trainers.pretraining import nnsslTrainer


@dataclass(frozen=True)
class RunPools:
    """The cases of a run.

    Attributes:
        training, validation: the same cases with fold `all`.
        digests: of the training cases; also of those that thinning left out, because what is left shows the same.
        other_scans: digests of scans of the training cases' subjects that do not train; None where no subject is known.
        lines: what a user should know of them.
        thinning: report of the slices left out, if any were to be.
    """

    training: Pool
    validation: Pool
    digests: list[str]
    other_scans: list[str] | None = None
    lines: tuple[str, ...] = ()
    thinning: dict[str, Any] | None = None


def read_run_pools(trainer: nnsslTrainer) -> RunPools:
    """Read, check, split, join, thin and weigh the cases that a run's settings ask for.

    Raises:
        NnsslError: datasets that are not preprocessed or not planned alike, and settings that do not fit them.
    """
    run = trainer.run
    datasets = _datasets(trainer)
    if run.dataset_weights is not None and len(run.dataset_weights) != len(datasets):
        raise NnsslError(
            f"dataset_weights needs one weight per dataset, {len(datasets)} for {', '.join(d.name for d in datasets)}; "
            f"given: {len(run.dataset_weights)}"
        )
    pools = {d.name: _read_pool(d) for d in datasets}
    training, validation, lines = _split(pools, trainer.fold)
    training, validation, more = _put_weights(run, datasets[0].name, training, validation)
    lines += more
    digests, others, thinning = training.digests, _other_scans(pools, training), None
    if run.thin_slices is not None:  # after cases of weight 0 have gone: what resembles them stays
        training, validation, thinning, line = _thin(trainer, datasets, pools, training, validation)
        lines.append(line)
    weights = dict(zip((d.name for d in datasets), run.dataset_weights or ())) or None
    training, validation = _both(
        lambda pool: balanced(pool, run.balance, weights if pool.joined else None), training, validation
    )
    return RunPools(training, validation, digests, others, (*lines, *_describe(run, training)), thinning)


def write_thinning(trainer: nnsslTrainer) -> None:
    """Write the report of the slices left out beside the index of the run's own dataset."""
    if trainer.pools.thinning is not None:
        base = Path(trainer.preprocessed_dataset_folder_base)
        write_json(trainer.pools.thinning, base / f"{trainer.configuration_manager.data_identifier}_thinning.json")


def fingerprint_of(dataset: str) -> dict[str, Any] | None:
    """A dataset's fingerprint, if it is there."""
    path = nnunet_folder("nnUNet_preprocessed") / dataset / "dataset_fingerprint.json"
    return read_fingerprint(path) if path.is_file() else None


def _datasets(trainer: nnsslTrainer) -> list[Planned]:
    """The run's own dataset and those that come with it, planned alike."""
    plans, configuration = trainer.plans_manager.plans, trainer.configuration_manager.configuration
    if configuration.get("previous_stage"):
        raise NnsslError(
            f"{trainer.configuration_name} is the second stage of a cascade, which also sees the first one's segmentations: "
            "pretrain 3d_fullres and use it for the cascade (nnssl_export or nnssl_plan_finetune with -c "
            f"{trainer.configuration_name})"
        )
    found = [Planned(trainer.plans_manager.dataset_name, plans, configuration, trainer.dataset_json)]
    for text in trainer.run.with_datasets:
        name = resolve_dataset(text, "nnUNet_preprocessed")
        if name in [d.name for d in found]:
            raise NnsslError(f"--with: {name} is in the pool already; name every dataset once")
        other = _planned(name, trainer.plans_manager.plans_name, trainer.configuration_name)
        check_planned_alike(found[0], other)
        found.append(other)
    return found


def _planned(dataset: str, plans_name: str, configuration: str) -> Planned:
    plans = read_plans(dataset, plans_name)
    known = list(plans["configurations"])
    if configuration not in known:
        raise NnsslError(
            f"configuration '{configuration}' is not in {plans_name} of {dataset}.{did_you_mean(configuration, known)} "
            f"There are: {', '.join(known)}"
        )
    resolved = PlansManager(copy.deepcopy(plans)).get_configuration(configuration).configuration
    description = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / dataset / "dataset.json")
    return Planned(dataset, plans, resolved, description)


def _read_pool(dataset: Planned) -> Pool:
    root = nnunet_folder("nnUNet_preprocessed") / dataset.name
    pool = read_pool(root, dataset.configuration["data_identifier"])
    check_origin(pool, fingerprint_of(dataset.name), dataset.plans, dataset.configuration)
    check_sizes(pool)
    return pool


def _split(pools: Mapping[str, Pool], fold: str | int) -> tuple[Pool, Pool, list[str]]:
    """Training and validation cases of all datasets, each split on its own; cases of several datasets once."""
    parts = {}
    for name, pool in pools.items():
        try:
            parts[name] = split_pool(pool, fold, read_splits(pool.root))
        except NnsslError as error:
            raise NnsslError(f"{name}: {error}") if len(pools) > 1 else error from None
    if len(pools) == 1:
        training, validation = next(iter(parts.values()))
        return (training, validation, []) if fold == "all" else _hold_out(training, validation, pools, parts, fold)
    folder = nnunet_folder("nnUNet_preprocessed")
    training, doubled = join_pools({n: p[0] for n, p in parts.items()}, folder)
    lines = [
        f"{count} case(s) of {name} are in an earlier dataset too (same voxels): used once"
        for name, count in doubled.items()
        if count
    ]
    lines += [
        f"WARNING: no voxel digests in {name} (preprocessed by nnU-Net): cases that are in another dataset too are not found"
        for name, pool in pools.items()
        if not pool.digests
    ]
    if fold == "all":
        return training, training, lines
    validation, _ = join_pools({n: p[1] for n, p in parts.items()}, folder)
    training, validation, more = _hold_out(training, validation, pools, parts, fold)
    return training, validation, [*lines, *more]


def _hold_out(
    training: Pool,
    validation: Pool,
    pools: Mapping[str, Pool],
    parts: Mapping[str, tuple[Pool, Pool]],
    fold: str | int,
) -> tuple[Pool, Pool, list[str]]:
    """Without training cases that are validation cases under another name, or other scans of the same subjects."""
    left = sum(len(pool) - len(parts[name][0]) - len(parts[name][1]) for name, pool in pools.items())
    training, doubled = without(training, validation)
    scans = _scans(pools)
    keys = [(scan.dataset if len(pools) > 1 else "", scan.name) for scan in scans]
    person = dict(zip(keys, persons([scan.subject for scan in scans], [scan.digest for scan in scans])))
    held_out = {person[case.dataset, case.name] for case in validation.cases}
    cases = tuple(case for case in training.cases if person[case.dataset, case.name] not in held_out)
    left += len(training) - len(cases)
    if not cases:
        raise NnsslError(f"fold {fold} leaves no training case: use 'all'")
    lines = [f"{doubled} training case(s) have the voxels of a validation case, under another name: held out"]
    lines = lines if doubled else []
    if left:
        lines.append(f"{left} case(s) show the subject of a validation case: held out, too")
    return replace(training, cases=cases), validation, lines


class _Scan(NamedTuple):
    """A scan that a dataset knows; its subject as in no other dataset."""

    dataset: str
    name: str
    subject: str
    digest: str


def _scans(pools: Mapping[str, Pool]) -> list[_Scan]:
    """All scans of the pools, and those that only the datasets' fingerprints know."""
    found = []
    for dataset, pool in pools.items():
        digests = {case.name: case.digest for case in pool.cases}
        subjects = {case.name: case.subject for case in pool.cases}
        measured = (fingerprint_of(dataset) or {}).get("nnssl", {}).get("cases", {})
        more = {name: digest for name, digest in measured.items() if name not in digests}
        subjects |= _subjects_in_raw(dataset, more) if more else {}
        for name, digest in (digests | more).items():
            subject = subjects.get(name, "")
            found.append(_Scan(dataset, name, f"{dataset}/{subject}" if subject else "", digest))
    return found


def _subjects_in_raw(dataset: str, names: Iterable[str]) -> dict[str, str]:
    try:
        return read_subjects(nnunet_folder("nnUNet_raw") / dataset, names)
    except MissingError:  # a training needs no raw data
        return {}


def _other_scans(pools: Mapping[str, Pool], training: Pool) -> list[str] | None:
    """Digests of known scans that do not train, of subjects of which others do; None where no subject is known."""
    scans, seen = _scans(pools), set(training.digests)
    if not any(scan.subject for scan in scans):
        return None
    person = persons([scan.subject for scan in scans], [scan.digest for scan in scans])
    trained = {p for p, scan in zip(person, scans) if scan.digest in seen}
    return sorted({scan.digest for p, scan in zip(person, scans) if p in trained and scan.digest} - seen)


def _thin(
    trainer: nnsslTrainer, datasets: list[Planned], pools: Mapping[str, Pool], training: Pool, validation: Pool
) -> tuple[Pool, Pool, dict[str, Any], str]:
    distance = trainer.run.thin_slices
    assert distance is not None
    if len(trainer.configuration_manager.patch_size) != 2:
        raise NnsslError(f"thin_slices is for 2D runs, {trainer.configuration_name} is not one: leave it out")
    known: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    several = len(pools) > 1
    for dataset in datasets:
        pool = pools[dataset.name]
        path = hashes_path(pool.root, dataset.configuration["data_identifier"])
        first = trainer.local_rank == 0
        found = slice_hashes(pool, path, usable_cpus(), compute=first)
        known |= known_slices(pool, dataset.name if several else "", found)
    scales = intensity_scales(datasets[0].plans, datasets[0].configuration)
    least, before = EMPTY_BELOW * min(scales), training
    training, validation = _both(lambda pool: thin(pool, known, distance, least), training, validation)
    report = thinning_report(before, training, known, distance, least)
    line = (
        f"thin_slices={distance}: {report['kept']} of {report['slices']} slices kept in {len(training)} of {len(before)} "
        f"cases; left out: {report['near_duplicates']} near-duplicates, {report['empty']} empty"
    )
    return training, validation, report, line


def _put_weights(run: RunConfig, own_name: str, training: Pool, validation: Pool) -> tuple[Pool, Pool, list[str]]:
    if run.case_weights is None:
        return training, validation, []
    table = read_weights(Path(run.case_weights).expanduser())
    used: set[tuple[str, str]] = set()

    def put(pool: Pool) -> Pool:
        weighted, rows = put_weights(pool, table, own_name)
        used.update(rows)
        return weighted

    names = ", ".join(name or own_name for name in cases_by_dataset(training))
    count, example = len(training), training.cases[0].name
    training, validation = _both(put, training, validation)
    if not used:
        raise NnsslError(f"{table.path}: no row names a case of {names}; a case there is {example}")
    lines = [
        f"case weights: {len(used)} case(s) named, {count - len(training)} training case(s) with weight 0 left out"
    ]
    if unused := sorted(set(table.weights) - used):
        lines.append(f"{table.path}: {len(unused)} row(s) name no case of the pool, for example {unused[0][1]}")
    return training, validation, lines


def _both(change: Callable[[Pool], Pool], training: Pool, validation: Pool) -> tuple[Pool, Pool]:
    """Change both pools; where they are one, only once."""
    changed = change(training)
    return changed, changed if training is validation else change(validation)


def _describe(run: RunConfig, training: Pool) -> list[str]:
    """Which dataset gives how many of the crops, and what a setting cannot do."""
    lines = []
    if training.joined:
        shares = dataset_shares(training)
        for name, count in cases_by_dataset(training).items():
            lines.append(f"{name}: {count} cases, {100 * shares[name]:.1f} % of the crops")
    if "subject" in run.balance:
        subjects = Counter(case.subject for case in training.cases)
        unknown = subjects.pop("", 0)
        if subjects:
            lines.append(
                f"balance={run.balance}: {len(subjects)} subjects, and {unknown} case(s) of which none is known"
            )
        else:
            lines.append(
                f"WARNING: balance={run.balance} does nothing for subjects: the pool knows none (see subjects.csv)"
            )
    if "dataset" in run.balance and not training.joined:
        lines.append(f"WARNING: balance={run.balance} does nothing for datasets: there is one")
    without_body = sum(not case.body for case in training.cases)
    if without_body and run.body_share:
        lines.append(
            f"{without_body} of {len(training)} cases have no body positions (preprocessed by nnU-Net?): body_share does "
            "not reach them, their crops lie anywhere"
        )
    return lines
