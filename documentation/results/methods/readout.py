"""Table of all runs: loss, collapse metrics, seconds per step, and a linear read-out beside that of random encoders.

Read-out: the encoder in eval mode, features of whole cases computed once (deepest stage, mean and maximum over space; the
slices of a 2D encoder are averaged; of ACDC the middle 96 x 96 pixels in 2D and 64 x 64 in 3D), standardised on the
training split, and a ridge whose strength is chosen within the training split. ACDC: pathology group of 80 patients (5
classes, chance 0.2; features of both frames side by side, split by patient), balanced accuracy. Hippocampus: anterior and
posterior volume in voxels of the segmentation, R^2 averaged over both. Five outer folds, five shuffles.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnssl.data.pool import read_pool
from nnssl.data.store import open_case
from nnssl.networks import build_unet, pool, total_stride
from nnssl.transfer import read_encoder

PLANS = "nnsslPlans_brief"
RAW, PREPROCESSED, RESULTS = (Path(os.environ[f"nnUNet_{n}"]) for n in ("raw", "preprocessed", "results"))
SEEDS, RANDOM_ENCODERS = 5, 5
ALPHAS = np.logspace(0, 5, 11)
MIDDLE = {"2d": 96, "3d_fullres": 64}  # pixels of ACDC that are read


def plans_of(dataset: str, configuration: str) -> dict:
    return json.loads((PREPROCESSED / dataset / f"{PLANS}.json").read_text())["configurations"][configuration]


@torch.no_grad()
def features(encoder: torch.nn.Module, dataset: str, configuration: str) -> dict[str, np.ndarray]:
    """Case name -> vector."""
    settings = plans_of(dataset, configuration)
    cases = read_pool(PREPROCESSED / dataset, settings["data_identifier"])
    encoder.eval()
    stride = total_stride(encoder)
    found = {}
    for i, case in enumerate(cases.cases):
        x = torch.from_numpy(np.asarray(open_case(cases.image_path(i))[:], np.float32))[None]
        x = x[0].movedim(1, 0) if len(stride) == 2 else x
        if "ACDC" in dataset:
            for axis in (-2, -1):
                n = min(MIDDLE[configuration], x.shape[axis])
                x = x.narrow(axis, (x.shape[axis] - n) // 2, n)
        padding = [(-n) % s for n, s in zip(x.shape[2:], stride)]
        x = torch.nn.functional.pad(x, [p for n in reversed(padding) for p in (n // 2, n - n // 2)])
        found[case.name] = pool(encoder(x)[-1], "avgmax").mean(0).numpy()
    return found


def acdc(found: dict[str, np.ndarray]) -> float:
    """Balanced accuracy of the pathology group, by patient."""
    rows = list(csv.DictReader((RAW / "Dataset027_ACDC" / "cases.csv").open()))
    patients: dict[str, list[dict]] = {}
    for row in rows:
        patients.setdefault(row["patient"], []).append(row)
    x = np.stack(
        [np.concatenate([found[r["case"]] for r in sorted(p, key=lambda r: r["case"])]) for p in patients.values()]
    )
    y = np.array([p[0]["group"] for p in patients.values()])
    scores = []
    for seed in range(SEEDS):
        answer = np.empty_like(y)
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, y):
            model = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS))
            answer[test] = model.fit(x[train], y[train]).predict(x[test])
        scores.append(balanced_accuracy_score(y, answer))
    return float(np.mean(scores))


def hippocampus(found: dict[str, np.ndarray]) -> float:
    """R^2 of anterior and posterior volume, averaged."""
    labels = RAW / "Dataset004_Hippocampus" / "labelsTr"
    names = sorted(found)
    volumes = []
    for name in names:
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(labels / f"{name}.nii.gz")))
        volumes.append([(label == 1).sum(), (label == 2).sum()])
    x, y = np.stack([found[n] for n in names]), np.array(volumes, float)
    scores = []
    for seed in range(SEEDS):
        answer = np.empty_like(y)
        for train, test in KFold(5, shuffle=True, random_state=seed).split(x):
            model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
            answer[test] = model.fit(x[train], y[train]).predict(x[test])
        scores.append(r2_score(y, answer))
    return float(np.mean(scores))


def readout(encoder: torch.nn.Module, dataset: str, configuration: str) -> float:
    found = features(encoder, dataset, configuration)
    return acdc(found) if "ACDC" in dataset else hippocampus(found)


def of_random_encoders(dataset: str, configuration: str) -> list[float]:
    cache = RESULTS / dataset / f"random_{PLANS}_{configuration}.json"
    if not cache.is_file():
        seeds = range(100, 100 + RANDOM_ENCODERS)
        found = [readout(fresh(dataset, configuration, s), dataset, configuration) for s in seeds]
        cache.write_text(json.dumps(found))
    return json.loads(cache.read_text())


def fresh(dataset: str, configuration: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_unet(plans_of(dataset, configuration)["architecture"], 1, 1).encoder


def row_of(folder: Path, dataset: str, configuration: str) -> dict:
    cache = folder / "readout.json"
    if cache.is_file():
        return json.loads(cache.read_text())
    content = read_encoder(folder / "encoder.pth")
    encoder = fresh(dataset, configuration, 0)
    encoder.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in content.network_weights.items() if k.startswith("encoder.")}
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = rows[-1]["steps"]
    last = {k.rsplit("/", 1)[-1]: v for k, v in rows[-1].items()}
    found = {
        "method": content.provenance["method"],
        "first": rows[0]["train_loss"],
        "last": rows[-1]["train_loss"],
        "val": rows[-1]["val_loss"],
        "std": last.get("embedding_std"),
        "rank": last.get("effective_rank"),
        "knn": last.get("knn_agreement"),
        "s_per_step": sum(r["train_seconds"] for r in rows) / steps,
        "steps": steps,
        "readout": readout(encoder, dataset, configuration),
    }
    cache.write_text(json.dumps(found))
    return found


def said(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    for dataset, configuration, what in (
        ("Dataset004_Hippocampus", "3d_fullres", "R^2"),
        ("Dataset027_ACDC", "2d", "bal. acc."),
        ("Dataset027_ACDC", "3d_fullres", "bal. acc."),
    ):
        random = of_random_encoders(dataset, configuration)
        print(f"\n### {dataset}, {configuration}\n")
        print(
            f"Random encoders ({RANDOM_ENCODERS} seeds): {what} {np.mean(random):.3f} (SD {np.std(random, ddof=1):.3f})\n"
        )
        print(f"| method | loss, first epoch | last | validation | std | rank | kNN | s per step | {what} |")
        print("|---|---|---|---|---|---|---|---|---|")
        for folder in sorted((RESULTS / dataset).glob(f"nnsslTrainer_*__nnsslPlans*__{configuration}/fold_all")):
            if not (folder / "encoder.pth").is_file():
                continue
            r = row_of(folder, dataset, configuration)
            cells = [r[k] for k in ("first", "last", "val", "std", "rank", "knn", "s_per_step")]
            print(f"| `{r['method']}` | " + " | ".join(said(c) for c in cells) + f" | {r['readout']:.3f} |", flush=True)
