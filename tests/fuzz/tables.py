"""What people and programs write as text: JSON of datasets, plans and pools, YAML of studies and runs, CSV, npz."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from nnssl.planners.measure import CaseFacts, Measurement
from nnssl.planners.records import Records
from nnssl.trainers.run_config import make_run_config, restored_run_config
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.checked import check_configuration, read_fingerprint
from nnssl.data.folders import raw_cases, read_dataset_json, read_plans
from nnssl.data.pool import Pool, PoolCase, body_positions, check_origin, read_pool, read_splits, split_pool, write_pool
from nnssl.data.spacing import crop_spacing
from nnssl.data.store import CaseReader, save_case
from nnssl.data.subjects import read_subjects
from nnssl.data.weights import put_weights, read_weights
from nnssl.errors import NnsslError
from nnssl.evaluate.classify.npz import read_npz
from nnssl.evaluate.embedding import Embedding, read_embedding, write_embedding
from nnssl.evaluate.labels import read_target
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.study.spec import read_study
from nnssl.files import read_json, write_json
from tests.fuzz.harness import Target
from tests.fuzz.images import DESCRIPTION, PLANS
from tests.fuzz.mutate import damage_bytes, damage_head, damage_json, damage_text, damage_yaml

CASES = [f"case_{i:02d}" for i in range(6)]
STUDY = {
    "name": "fuzz", "dataset": "Dataset900_Fuzz", "configuration": "3d_fullres", "control": "scratch",
    "inits": {"scratch": {"schedule": "scratch"}, "ours": {"init": "encoder.pth", "lr": 0.01}}, "counts": [1, 2],
    "seeds": [0, 1], "steps": 20, "evaluate_every": 10, "training": CASES[:3], "validation": CASES[3:4], "test": CASES[4:],
}  # fmt: skip
RUN = {"mask_ratio": 0.5, "block": [4, 8, 8], "epochs": 3, "lr": 0.01, "with_datasets": ["004"], "snapshots": [5]}
FINGERPRINT = {
    "spacings": [[1.0, 1.0, 1.0]] * 2, "shapes_after_crop": [[10, 12, 14]] * 2, "median_relative_size_after_cropping": 1.0,
    "foreground_intensity_properties_per_channel": PLANS["foreground_intensity_properties_per_channel"],
    "nnssl": {"source": "ab12", "reader": "SimpleITKIO", "cases": dict.fromkeys(CASES, "cd34"), "skipped": {"x": "why"}},
}  # fmt: skip


def text(name: str, content: str) -> Callable[[Path], None]:
    """Writer of one text file."""
    return lambda folder: _write(folder / name, content)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def dataset(folder: Path) -> None:
    content = {
        **DESCRIPTION,
        "dataset": {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": "l.nii.gz"} for c in CASES},
    }
    _write(folder / "dataset.json", json.dumps(content))


def read_dataset(folder: Path) -> None:
    description = read_dataset_json(folder / "dataset.json")
    for case in raw_cases(folder, description):
        _ = Path(case.images[0]).is_file()
    _ = list(description["channel_names"].values()), list(description["labels"])


def read_plans_of(folder: Path) -> None:
    """As every command does, then what nnU-Net makes of them."""
    import os

    os.environ["nnUNet_preprocessed"] = str(folder)
    plans = read_plans("Dataset900_Fuzz", "nnsslPlans")
    for name in plans["configurations"]:
        configuration = PlansManager(copy.deepcopy(plans)).get_configuration(name).configuration
        check_configuration(configuration, f"configuration {name}")
        crop_spacing(configuration)


def pool(folder: Path) -> None:
    """A preprocessed folder of two real cases."""
    cases = []
    for i, name in enumerate(CASES):
        target = folder / "nnsslPlans_3d_fullres" / name
        target.parent.mkdir(exist_ok=True)
        data = np.random.default_rng(i).normal(size=(1, 10, 14, 12)).astype(np.float32)
        body = np.full((20, 3), 3, np.int32)
        save_case(target, data, np.zeros(data.shape, np.int8), body, {"spacing": [1, 1, 1]}, [8, 16, 16], half=True)
        cases.append(PoolCase(name, target.parent.name, data.shape[1:], False, f"{i:032x}", len(body), f"s{i // 2}"))
    write_pool(Pool(folder, tuple(cases), "ef56"), "nnsslPlans_3d_fullres")
    write_json([{"train": CASES[:4], "val": CASES[4:]}], folder / "splits_final.json")


def read_pool_of(folder: Path) -> None:
    found = read_pool(folder, "nnsslPlans_3d_fullres")
    check_origin(found, FINGERPRINT, PLANS, PLANS["configurations"]["3d_fullres"]) if not found.origin else None
    splits = read_splits(folder)
    train, _ = split_pool(found, 0, splits)
    _ = train.signature, train.digests
    for i in range(len(found)):
        body_positions(found, i)


def read_crops(folder: Path) -> None:
    """As a reading process does: part of the image, then all of it."""
    path = folder / "nnsslPlans_3d_fullres" / f"{CASES[0]}.b2nd"
    for lower, size in (((2, 3, 4), (4, 4, 4)), ((0, 0, 0), (10, 14, 12))):
        CaseReader().crop(path, lower, size)


def subjects(folder: Path) -> None:
    read_subjects(folder, CASES)


def weights(folder: Path) -> None:
    table = read_weights(folder / "weights.csv")
    cases = tuple(PoolCase(c, "f", (8, 8, 8), False) for c in CASES)
    put_weights(Pool(folder, cases), table, "Dataset900_Fuzz")


def labels(folder: Path) -> None:
    for target in ("grade", "age:regression"):
        read_target(folder / "labels.csv", target, CASES, {}, "patient")


def read_run(folder: Path) -> None:
    make_run_config("masked_region", {"epochs": None}, folder / "run.yaml", ["seed=3"])


def restored(folder: Path) -> None:
    restored_run_config(read_json(folder / "config.json"))


def embedding(folder: Path) -> None:
    rng = np.random.default_rng(0)
    about = {"format": 1, "encoder": "encoder.pth"}
    write_embedding(
        Embedding(rng.random((6, 4)), tuple(CASES), np.arange(6), ("a", "b", "c", "d"), about), folder / "e.npz"
    )


def medmnist(folder: Path) -> None:
    rng = np.random.default_rng(0)
    some = {f"{s}_images": rng.integers(0, 255, (5, 12, 12), dtype=np.uint8) for s in ("train", "val", "test")}
    np.savez_compressed(
        folder / "m.npz", **some, **{f"{s}_labels": np.arange(5)[:, None] % 2 for s in ("train", "val", "test")}
    )


def piece(folder: Path) -> None:
    facts = CaseFacts((9, 9, 9), (9, 9, 9), (1.0, 1.0, 1.0), "int16", "LPS", 0.5, [{"mean": 1.0}], "ab")
    Measurement(facts, np.zeros((1, 50), np.float32), {0: np.arange(5)}).save(folder / "p.npz", "key")


def record(folder: Path) -> None:
    pool(folder)
    Records(folder, "nnsslPlans_3d_fullres").write(
        PoolCase(CASES[0], "nnsslPlans_3d_fullres", (10, 14, 12), False), "key"
    )


def study_folder(folder: Path) -> None:
    from nnssl.evaluate.study.spec import parse_study

    write_json(
        {"study": parse_study(STUDY, "x").model_dump(), "inits": {}, "started": "2026-01-01"}, folder / "study.json"
    )


def read_study_folder(folder: Path) -> None:
    try:
        read_results(folder)
    except NnsslError as error:
        if "has finished yet" not in str(error):
            raise


def table_targets() -> list[Target]:
    """One for each kind of file."""
    index, image = "nnsslPlans_3d_fullres_pool.json", f"nnsslPlans_3d_fullres/{CASES[0]}.b2nd"
    body = f"nnsslPlans_3d_fullres/{CASES[0]}_body.npy"
    plans = "Dataset900_Fuzz/nnsslPlans.json"
    rows = "\n".join(f"{c},{i % 2},{30 + 7 * i},p{i}" for i, c in enumerate(CASES))
    people = "case,subject\n" + "\n".join(f"{c},p{i // 2}" for i, c in enumerate(CASES))
    weighed = "case,weight\n" + "\n".join(f"{c},{i + 0.5}" for i, c in enumerate(CASES))
    return [
        Target("dataset-json", dataset, "dataset.json", damage_json, read_dataset),
        Target("plans", text(plans, json.dumps(PLANS)), plans, damage_json, read_plans_of),
        Target("fingerprint", text("f.json", json.dumps(FINGERPRINT)), "f.json", damage_json,
               lambda folder: read_fingerprint(folder / "f.json")),
        Target("pool-index", pool, index, damage_json, read_pool_of),
        Target("splits", pool, "splits_final.json", damage_json, read_pool_of),
        Target("body-npy", pool, body, damage_head(128), read_pool_of),
        Target("blosc2", pool, image, damage_head(400), read_crops),
        Target("blosc2-anywhere", pool, image, damage_bytes, read_crops),
        Target("record", record, f"nnsslPlans_3d_fullres_records/{CASES[0]}.json", damage_json,
               lambda folder: Records(folder, "nnsslPlans_3d_fullres").read(CASES[0], "key")),
        Target("study-yaml", text("study.yaml", yaml.safe_dump(STUDY)), "study.yaml", damage_yaml,
               lambda folder: read_study(folder / "study.yaml")),
        Target("study-json", study_folder, "study.json", damage_json, read_study_folder),
        Target("run-yaml", text("run.yaml", yaml.safe_dump(RUN)), "run.yaml", damage_yaml, read_run),
        Target("run-json", lambda f: write_json(make_run_config("spark", {}, None, []).model_dump(), f / "config.json"),
               "config.json", damage_json, restored),
        Target("labels-csv", text("labels.csv", f"case,grade,age,patient\n{rows}\n"), "labels.csv", damage_text, labels),
        Target("subjects-csv", text("subjects.csv", people), "subjects.csv", damage_text, subjects),
        Target("weights-csv", text("weights.csv", weighed), "weights.csv", damage_text, weights),
        Target("embedding", embedding, "e.npz", damage_bytes, lambda folder: read_embedding(folder / "e.npz")),
        Target("medmnist", medmnist, "m.npz", damage_bytes, lambda folder: read_npz(folder / "m.npz")),
        Target("fingerprint-piece", piece, "p.npz", damage_bytes, lambda folder: Measurement.load(folder / "p.npz", "key")),
    ]  # fmt: skip
