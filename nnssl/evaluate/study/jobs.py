"""A study from start to end: facts on disk, worker processes, progress, retries."""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnssl.data.claims import turn
from nnssl.data.folders import nnunet_folder
from nnssl.data.subjects import read_subjects
from nnssl.errors import NnsslError
from nnssl.evaluate.study.cells import Cell, grid, record_of, state_of, write_record
from nnssl.evaluate.study.draws import draw, draw_slices, ordered_patients
from nnssl.evaluate.study.leakage import check_duplicates, check_pretraining, check_subjects
from nnssl.evaluate.study.spec import Initialisation, StudyConfig, recorded_study, write_study
from nnssl.files import read_json, write_json

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
PREPARING = "preparing"
"""Claim of the job that checks and writes what all jobs of a study share."""
ATTEMPTS = 2
"""A cell that fails is tried once more; what fails twice is reported."""
SHOWN_PROVENANCE = ("method", "steps", "seed", "cases", "cases_by_dataset", "versions", "seconds")


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` of a study's cells, for job arrays; locks keep parts apart even if they overlap."""

    index: int = 0
    count: int = 1

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this part."""
        return [cell for i, cell in enumerate(cells) if i % self.count == self.index]


def prepare(study: StudyConfig, folder: Path, command: str, device: str) -> None:
    """Check a study and write what does not change while it runs; a study that is there must be the same.

    Raises:
        NnsslError: leakage, too few cases for a count, or another study in the folder.
    """
    subjects, digests = subjects_of(study), digests_of(study)
    check_subjects(study, subjects)
    check_duplicates(study, digests)
    checked = check_pretraining(study, digests)
    draws = all_draws(study, subjects)
    inits = {name: _facts_of(init, study.seeds) for name, init in study.inits.items()}
    labels = _labels_digest(study)
    facts = {
        "study": study.model_dump(),
        "command": command,
        "device": device,
        "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
        "versions": _versions(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "leakage_check": checked,
        "inits": inits,
        **({"labels_sha256": labels} if labels else {}),
    }
    # nothing is written before everything could be read
    if not (folder / "study.json").is_file():
        _refuse_what_is_no_study(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with turn(folder / PREPARING):  # the jobs of an array begin at the same moment
        _refuse_other(study, folder, inits, labels)
        _refuse_other_draws(draws, folder)
        known = read_json(folder / "study.json") if (folder / "study.json").is_file() else {}
        write_study(study, folder / "study.yaml")
        write_json(draws, folder / "draws.json")
        write_json({**facts, "started": known.get("started") or facts["started"]}, folder / "study.json")


def _labels_digest(study: StudyConfig) -> str | None:
    """SHA-256 of a classification's table, or of its file of images and labels."""
    import hashlib

    if study.classify is None:
        return None
    source = study.classify.labels or study.classify.npz
    if source is None:
        return None
    digest = hashlib.sha256()
    with Path(source).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse_other(study: StudyConfig, folder: Path, inits: Mapping[str, Any], labels: str | None) -> None:
    """A study may grow by initialisations, counts and seeds; all else must stay, or its cells could not be compared.

    Weights are the same if their bytes are, wherever the file lies.
    """
    path = folder / "study.json"
    if not path.is_file():
        _refuse_what_is_no_study(folder)
        return
    before = recorded_study(path)
    for key in StudyConfig.model_fields:
        if key not in ("inits", "counts", "seeds", "control", "keep_weights", "name") and getattr(
            before, key
        ) != getattr(study, key):
            raise NnsslError(f"{folder} holds a study with another '{key}': choose another folder with -o")
    record = read_json(path)
    if labels is not None and record.get("labels_sha256", labels) != labels:
        raise NnsslError(
            f"{folder} was made with other labels (their table has changed): choose another folder with -o"
        )
    for name, known in record["inits"].items():
        now = inits.get(name, known)
        shared = set(now.get("sha256_per_seed", {})) & set(known.get("sha256_per_seed", {}))
        same = {key: now.get(key) == known.get(key) for key in ("kind", "settings", "sha256")}
        same["sha256"] &= all(now["sha256_per_seed"][s] == known["sha256_per_seed"][s] for s in shared)
        for key, what in (("kind", "settings"), ("settings", "settings"), ("sha256", "weights")):
            if not same[key]:
                raise NnsslError(
                    f"{folder} holds other {what} of initialisation '{name}': give the new one another name"
                )


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


def _versions() -> dict[str, str]:
    from nnssl.transfer.provenance import package_versions

    return package_versions()


def _facts_of(init: Initialisation, seeds: Sequence[int]) -> dict[str, Any]:
    """What the report says of an initialisation: never a path."""
    import hashlib

    from nnssl.transfer.reading import find_source, read_weights

    sources = init.sources(seeds)
    shown = init.model_dump(exclude_none=True, exclude={"init"})
    if not sources:
        return {"kind": "nnunet" if init.schedule == "nnunet" else "scratch", "settings": shown}
    weights = read_weights(next(iter(sources.values())))  # of several pretrainings the first one tells
    files = {seed: find_source(source) for seed, source in sources.items()}
    digests = {seed: hashlib.sha256(file.read_bytes()).hexdigest() for seed, file in files.items()}
    return {
        "kind": "file",
        "file_name": next(iter(files.values())).name,
        "format": weights.kind,
        **({"sha256": digests["all"]} if "all" in digests else {"sha256_per_seed": digests}),
        "provenance": {k: weights.provenance[k] for k in SHOWN_PROVENANCE if k in weights.provenance},
        "settings": shown,
    }


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

    from nnssl.data.folders import read_plans

    plan = read_plans(study.dataset, study.plans)["configurations"][study.configuration]
    if len(plan["patch_size"]) != 2:
        raise NnsslError(f"unit: slice is for 2D configurations, {study.configuration} is not one")
    cases = nnunet_folder("nnUNet_preprocessed") / study.dataset / plan["data_identifier"]
    dataset = infer_dataset_class(str(cases))(str(cases), study.training)
    found = {}
    for case in study.training:
        _, label, _, _ = dataset.load_case(case)
        found[case] = [int(z) for z in np.flatnonzero((np.asarray(label[0]) > 0).any((1, 2)))]
    return found


# ---------------------------------------------------------------- running


def run_study(folder: Path, workers: int, share: Share, device: str) -> tuple[int, int]:
    """Run what is missing of a study in worker processes, with one progress display; returns (done, failed) of the share."""
    study = recorded_study(folder / "study.json")
    cells = share.of(grid(study))
    for cell in cells:
        if state_of(cell.folder(folder)) == "failed":  # broken cells get new attempts with every call
            write_record(cell.folder(folder), state="waiting", attempts=0)
    (folder / "logs").mkdir(exist_ok=True)
    # a scheduler's SIGTERM ends the workers, too
    before = signal.signal(signal.SIGTERM, _interrupt)
    team = Team(folder, workers, share, device)
    bar = tqdm(
        total=len(cells) * study.steps, unit="step" if study.stepwise else "fit", smoothing=0.02, dynamic_ncols=True
    )
    try:
        bar.update(sum(steps_done(cell.folder(folder), study.steps) for cell in cells))
        bar.initial = bar.n
        while team.working():
            time.sleep(POLL_SECONDS)
            _show(bar, cells, folder, study.steps)
        _show(bar, cells, folder, study.steps)
    finally:
        team.stop()
        bar.close()
        signal.signal(signal.SIGTERM, before)
    states = [state_of(cell.folder(folder)) for cell in cells]
    return states.count("done"), states.count("failed")


def _interrupt(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _show(bar: Any, cells: Sequence[Cell], folder: Path, steps: int) -> None:
    bar.n = sum(steps_done(cell.folder(folder), steps) for cell in cells)
    states = [state_of(cell.folder(folder)) for cell in cells]
    bar.set_description(f"{states.count('done')} of {len(cells)} trainings")
    failed = states.count("failed")
    bar.set_postfix_str(f"{states.count('running')} running" + (f", {failed} failed" if failed else ""))


def steps_done(folder: Path, steps: int) -> int:
    """Steps of a cell that are done; a failed one has nothing left to do."""
    if record_of(folder).get("state") in ("done", "failed"):
        return steps
    curve = folder / "curve.csv"
    if not curve.is_file():
        return 0
    with curve.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return int(rows[-1]["step"]) if rows else 0


class Team:
    """Worker processes of one call; one that dies is replaced while its cells are not all tried."""

    def __init__(self, folder: Path, workers: int, share: Share, device: str) -> None:
        self.folder, self.share, self.device = folder, share, device
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.deaths = 0
        for i in range(workers):
            self._start(i)

    def working(self) -> bool:
        """Whether any worker still works; replaces those that died."""
        for i, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[i]
            if code != 0:
                self.deaths += 1
                if self.deaths > ATTEMPTS * 10:
                    raise NnsslError(f"worker processes keep dying: see {self.folder / 'logs'}")
                self._start(i)
        return bool(self.processes)

    def stop(self) -> None:
        """End what still runs; its cells will be taken up again by the next call."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait()

    def _start(self, number: int) -> None:
        results = self.folder.resolve() / "nnUNet_results"
        results.mkdir(exist_ok=True)
        environment = {**os.environ, "nnUNet_results": str(results), "PYTHONUNBUFFERED": "1"}
        arguments = [str(self.folder), self.device, str(self.share.index), str(self.share.count), str(number)]
        with (self.folder / "logs" / f"worker_{self.share.index}_{number}.log").open("ab") as file:
            self.processes[number] = subprocess.Popen(
                [sys.executable, "-m", "nnssl.evaluate.study.worker", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
