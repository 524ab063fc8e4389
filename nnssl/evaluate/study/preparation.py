"""What does not change while a study runs: checked and written before its first training, by whichever job comes first."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nnssl.data.claims import turn
from nnssl.data.folders import check_configuration, nnunet_folder, read_dataset_json, read_plans
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError, shortened
from nnssl.evaluate.study.cells import grid, state_of
from nnssl.evaluate.study.draws import draw, draw_slices, ordered_patients
from nnssl.evaluate.study.leakage import PARTS, ancestry, check_duplicates, check_pretraining, check_subjects
from nnssl.evaluate.study.spec import FORMAT, Initialisation, StudyConfig, recorded_study, write_study
from nnssl.files import read_json, sha256_of, write_json
from nnssl.transfer.provenance import package_versions
from nnssl.transfer.reading import find_source, read_weights

PREPARING = "preparing"
"""Claim of the job that checks and writes what all jobs of a study share."""
MAY_CHANGE = ("inits", "counts", "seeds", "control", "keep_weights", "name")
"""Settings of a study that may grow or differ from call to call; with another of the rest, cells could not be compared."""
SHOWN_PROVENANCE = ("method", "steps", "seed", "cases", "cases_by_dataset", "versions")


def prepare(study: StudyConfig, folder: Path, command: str, device: str) -> None:
    """Check a study and write what does not change while it runs; a study that is there must be the same.

    Raises:
        NnsslError: plans or cases that are not there, leakage, too few cases for a count, or another study in the folder.
    """
    check_target(study)
    subjects, digests = subjects_of(study), digests_of(study)
    check_subjects(study, subjects)
    check_duplicates(study, digests)
    checked = check_pretraining(study, digests)
    draws = all_draws(study, subjects)
    inits = {name: _facts_of(init, study.seeds) for name, init in study.inits.items()}
    material = _material(study)
    facts = {
        "format": FORMAT,
        "study": study.model_dump(),
        "command": command,
        "device": device,
        "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
        "versions": package_versions(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "leakage_check": checked,
        "inits": inits,
        "batch_size": _batch_size(study),
        "test_patients": _numbered([subjects.get(case) or case for case in study.test]),
        **{f"{what}_sha256": digest for what, digest in material.items()},
    }
    # nothing is written before everything could be read
    if not (folder / "study.json").is_file():
        _refuse_what_is_no_study(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with turn(folder / PREPARING):  # the jobs of an array begin at the same moment
        _refuse_other(study, folder, inits, material)
        _refuse_other_draws(draws, folder)
        known = read_json(folder / "study.json") if (folder / "study.json").is_file() else {}
        write_study(study, folder / "study.yaml")
        write_json(_with_former_draws(draws, folder), folder / "draws.json")
        facts["inits"] = _with_former(inits, known.get("inits", {}))
        write_json({**facts, "started": known.get("started") or facts["started"]}, folder / "study.json")


def _batch_size(study: StudyConfig) -> int | None:
    """Crops or images per step of a cell; None where there are no steps."""
    if study.classify is not None:
        return study.classify.batch_size if study.stepwise else None
    return study.batch_size or int(
        read_plans(study.dataset, study.plans)["configurations"][study.configuration]["batch_size"]
    )


def check_target(study: StudyConfig) -> None:
    """Refuse a segmentation whose trainings would miss what they read; a classification's images tell when they are listed.

    Raises:
        NnsslError: plans, configuration, preprocessed cases or reference segmentations are not there.
    """
    from nnssl.trainers.finetune_plan import training_cases

    if study.classify is not None:
        return
    plans = read_plans(study.dataset, study.plans)
    check_configuration(plans, study.configuration, study.plans, study.dataset)
    preprocessed = set(training_cases(study.dataset, study.plans, study.configuration, "all"))
    references = _references(study)
    for part in PARTS:
        cases = getattr(study, part)
        unknown = [case for case in cases if case not in preprocessed]
        if unknown:
            raise NnsslError(
                f"{part} names what is not among the labelled cases that {study.dataset} has preprocessed for "
                f"{study.configuration}: {shortened(unknown)}. Correct the study file, or preprocess the dataset again"
            )
        without = [case for case in cases if not references[case].is_file()]
        if without:
            raise NnsslError(
                f"{part} names cases without a reference in {references[without[0]].parent}: {shortened(without)}. "
                "Preprocess the dataset again"
            )


def _references(study: StudyConfig) -> dict[str, Path]:
    """Case of a segmentation -> the file of its reference segmentation, in the original grid."""
    folder = nnunet_folder("nnUNet_preprocessed") / study.dataset
    ending = read_dataset_json(folder / "dataset.json")["file_ending"]
    return {case: folder / "gt_segmentations" / f"{case}{ending}" for part in PARTS for case in getattr(study, part)}


def _material(study: StudyConfig) -> dict[str, str]:
    """SHA-256 of what trainings read beside weights.

    Returns:
        `labels`: a classification's table, or its file of images and labels; a segmentation's references, by name. `plans`
        of a segmentation: its configuration.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if study.classify is not None:
        return {"labels": sha256_of(str(study.classify.labels or study.classify.npz))}
    plans = PlansManager(copy.deepcopy(read_plans(study.dataset, study.plans)))
    configuration = plans.get_configuration(study.configuration).configuration
    files = [f"{case} {sha256_of(path)}" for case, path in sorted(_references(study).items())]
    texts = {"plans": json.dumps(configuration, sort_keys=True), "labels": "\n".join(files)}
    return {what: hashlib.sha256(text.encode()).hexdigest() for what, text in texts.items()}


def _refuse_other(study: StudyConfig, folder: Path, inits: Mapping[str, Any], material: Mapping[str, str]) -> None:
    """A study may grow by initialisations, counts and seeds; all else must stay, or its cells could not be compared.

    Weights and labels are the same if their bytes are, wherever the file lies.
    """
    path = folder / "study.json"
    if not path.is_file():
        _refuse_what_is_no_study(folder)
        return
    record, before = read_json(path), recorded_study(path)
    placed = "labels_sha256" not in record  # a version that kept no digest: then the place must do
    for key in StudyConfig.model_fields:
        if key not in MAY_CHANGE and _setting(before, key, placed) != _setting(study, key, placed):
            raise NnsslError(f"{folder} holds a study with another '{key}': choose another folder with -o")
    for what, digest in material.items():
        differs = record.get(f"{what}_sha256", digest) != digest
        # labels that were mended before the first result are mixed with nothing
        if differs and (what == "plans" or any(state_of(cell.folder(folder)) == "done" for cell in grid(before))):
            which = f"of {study.dataset}" if study.classify is None else "(their table has changed)"
            raise NnsslError(f"{folder} was made with other {what} {which}: choose another folder with -o")
    for name, known in record["inits"].items():
        now = inits.get(name, known)
        per_seed = [facts.get("sha256_per_seed", {}) for facts in (now, known)]
        other = {
            "settings": any(now.get(key) != known.get(key) for key in ("kind", "settings")),
            "weights": now.get("sha256") != known.get("sha256")
            or any(per_seed[0][seed] != per_seed[1][seed] for seed in per_seed[0].keys() & per_seed[1].keys()),
        }
        for what in (what for what, differs in other.items() if differs):
            raise NnsslError(f"{folder} holds other {what} of initialisation '{name}': give the new one another name")


def _setting(study: StudyConfig, key: str, placed: bool) -> Any:
    """A setting for comparison; of labels the kind of file, and where it lies only if `placed`."""
    value = getattr(study, key)
    if key != "classify" or value is None or placed:
        return value
    return value.model_copy(update={name: getattr(value, name) is not None for name in ("labels", "npz")})


def _refuse_what_is_no_study(folder: Path) -> None:
    """What a job that is just preparing the folder, or was killed while it did, has put there is ours."""
    ours = ("study.yaml", "draws.json", "study.json")
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in ours and not path.name.startswith((".", PREPARING)):
                raise NnsslError(f"{folder} exists and holds no study: choose another folder with -o")


def _refuse_other_draws(draws: Mapping[str, Any], folder: Path) -> None:
    """Draws must stay what they were: a table of labels or patients may have changed under the same name."""
    path = folder / "draws.json"
    known = read_json(path) if path.is_file() else {}
    for seed, counts in known.items():
        for count, drawn in counts.items():
            now = draws.get(seed, {}).get(count)
            if now is not None and json.loads(json.dumps(now)) != drawn:
                raise NnsslError(
                    f"{folder}: the draw of {count} for seed {seed} would be another one now (a changed table of labels or "
                    "patients?): choose another folder with -o"
                )


def _with_former(inits: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What is left out of a study may come back, and its cells are still there: so it stays on record."""
    found = {**known, **inits}
    for name in inits.keys() & known.keys():
        of_seeds = {**known[name].get("sha256_per_seed", {}), **inits[name].get("sha256_per_seed", {})}
        found[name] = {**inits[name], **({"sha256_per_seed": of_seeds} if of_seeds else {})}
    return found


def _with_former_draws(draws: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "draws.json"
    known = read_json(path) if path.is_file() else {}
    return {seed: {**known.get(seed, {}), **draws.get(seed, {})} for seed in {**known, **draws}}


def _numbered(names: Sequence[str]) -> list[int]:
    """Which are the same, without saying who: the first name is 0, the next other one 1."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _facts_of(init: Initialisation, seeds: Sequence[int]) -> dict[str, Any]:
    """What the report says of an initialisation: never a path."""
    sources = init.sources(seeds)
    shown = init.model_dump(exclude_none=True, exclude={"init"})
    if not sources:
        return {"kind": "nnunet" if init.schedule == "nnunet" else "scratch", "settings": shown}
    weights = read_weights(next(iter(sources.values())))  # of several pretrainings the first one tells
    files = {seed: find_source(source) for seed, source in sources.items()}
    digests = {seed: sha256_of(file) for seed, file in files.items()}
    return {
        "kind": "file",
        "file_name": next(iter(files.values())).name,
        "format": weights.kind,
        **({"sha256": digests["all"]} if "all" in digests else {"sha256_per_seed": digests}),
        "provenance": {k: weights.provenance[k] for k in SHOWN_PROVENANCE if k in weights.provenance},
        "crops": _crops(weights.provenance),
        "settings": shown,
    }


def _crops(provenance: Mapping[str, Any]) -> int | None:
    """That a pretraining has seen, with those that it started from; None where a file does not tell."""
    counts = []
    for part in ancestry(provenance):
        steps, config = part.get("steps"), part.get("config")
        batch = config.get("batch_size") if isinstance(config, Mapping) else None
        if not (isinstance(steps, int) and isinstance(batch, int)):
            return None
        counts.append(steps * batch)
    return sum(counts) or None


def subjects_of(study: StudyConfig) -> Mapping[str, str]:
    """Case -> patient, where the raw dataset, the names or the table of a classification tell."""
    if study.classify is not None:
        from nnssl.evaluate.study.classification import groups_of

        return groups_of(study)
    raw = nnunet_folder("nnUNet_raw") / study.dataset
    return read_subjects(raw, [*study.training, *study.validation, *study.test])


def digests_of(study: StudyConfig) -> Mapping[str, str]:
    """Case -> digest of its voxels, where known."""
    from nnssl.evaluate.study.run_cell import known_fingerprint

    if study.classify is not None:
        from nnssl.evaluate.study.classification import source_of

        return source_of(study).known.digests
    known: Mapping[str, str] = known_fingerprint(study).get("nnssl", {}).get("cases", {})
    return known


def all_draws(study: StudyConfig, subjects: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """Seed -> count -> training cases, or case -> slices where slices are counted."""
    if study.classify is not None:
        from nnssl.evaluate.study.classification import classification_draws

        return classification_draws(study)
    found: dict[str, dict[str, Any]] = {}
    slices = _labelled_slices(study) if study.unit == "slice" else {}
    for seed in study.seeds:
        patients = ordered_patients(study.training, subjects, seed)
        found[str(seed)] = {
            str(count): draw_slices(patients, slices, count, seed)
            if study.unit == "slice"
            else draw(patients, count, study.unit)
            for count in study.counts
        }
    return found


def _labelled_slices(study: StudyConfig) -> dict[str, list[int]]:
    """Case -> slices of the preprocessed case that show a label."""
    import numpy as np
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    from nnssl.data.folders import read_dataset_json, read_plans

    plan = read_plans(study.dataset, study.plans)["configurations"][study.configuration]
    if len(plan["patch_size"]) != 2:
        raise NnsslError(f"unit: slice is for 2D configurations, {study.configuration} is not one")
    cases = nnunet_folder("nnUNet_preprocessed") / study.dataset / plan["data_identifier"]
    dataset = infer_dataset_class(str(cases))(str(cases), study.training)
    ignored = read_dataset_json(cases.parent / "dataset.json")["labels"].get("ignore", 0)
    found = {}
    for case in study.training:
        _, label, _, _ = dataset.load_case(case)
        shown = (np.asarray(label[0]) > 0) & (np.asarray(label[0]) != ignored)
        found[case] = [int(z) for z in np.flatnonzero(shown.any((1, 2)))]
    return found
