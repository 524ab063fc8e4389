"""Small targets of the transfer matrix: a few cropped cases of real data sets, planned, with short trainings."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

CASES, LARGEST = 6, (16, 96, 96)  # of each dataset; voxels that are kept around the label
STEPS = {"min_coverage": 0.0, "num_epochs": 1, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1}


@dataclass(frozen=True)
class Target:
    """A column: plans of a dataset, made by one command, and the patch that they are cut down to."""

    name: str
    dataset: int
    plans: str
    configuration: str
    command: str
    patch: tuple[int, ...]


S = "nnssl_plan_and_preprocess -d {d} --size S -np 2"
TARGETS = (
    Target("ACDC 2D", 951, "nnsslPlans", "2d", S, (64, 64)),
    Target("ACDC 3D", 951, "acdcPlans", "3d_fullres", S + " -pl nnsslPlannerACDC -p acdcPlans", (4, 48, 48)),
    Target("SarcomaCT", 952, "ctPlans", "3d_fullres", S + " -pl nnsslPlannerCT -p ctPlans", (16, 32, 32)),
    Target("Hippocampus", 953, "nnsslPlans", "3d_fullres", S, (16, 16, 16)),
    Target("4 channels", 954, "nnsslPlans", "3d_fullres", S, (16, 16, 16)),
    Target("PlainConv", 953, "nnUNetPlans", "3d_fullres", "nnUNetv2_plan_experiment -d {d}", (16, 16, 16)),
    Target("ResEnc M", 953, "nnUNetResEncUNetMPlans", "3d_fullres",
           "nnUNetv2_plan_experiment -d {d} -pl nnUNetPlannerResEncM", (16, 16, 16)),
    Target("ResEnc L", 953, "nnUNetResEncUNetLPlans", "3d_fullres",
           "nnUNetv2_plan_experiment -d {d} -pl nnUNetPlannerResEncL", (16, 16, 16)),
    Target("timm resnet18", 951, "timmPlans", "2d", S + " --encoder resnet18 -p timmPlans", (64, 64)),
)  # fmt: skip
SOURCES_OF = {
    951: "Dataset027_ACDC",
    952: "Dataset050_SarcomaCT",
    953: "Dataset004_Hippocampus",
    954: "Dataset004_Hippocampus",
}


def make_raw(data: Path, raw: Path) -> None:
    """Cut the smallest cases of the real data sets down, with a fourfold image for 954."""
    for number, source in SOURCES_OF.items():
        folder = raw / f"Dataset{number}_{source.split('_')[1]}{'4' if number == 954 else ''}"
        if (folder / "dataset.json").is_file():
            continue
        description = json.loads((data / source / "dataset.json").read_text())
        labels = sorted((data / source / "labelsTr").glob("*.nii.gz"), key=lambda p: p.stat().st_size)[-40:][:CASES]
        for label in labels:
            _cut(data / source, label, folder, copies=4 if number == 954 else 1)
        if number == 954:
            description["channel_names"] = {"0": "MRI", "1": "smooth", "2": "edges", "3": "inverse"}
        description["numTraining"] = len(labels)
        (folder / "dataset.json").write_text(json.dumps(description))


def _cut(source: Path, label_file: Path, folder: Path, copies: int) -> None:
    case = label_file.name.removesuffix(".nii.gz")
    label = sitk.ReadImage(str(label_file))
    image = sitk.ReadImage(str(source / "imagesTr" / f"{case}_0000.nii.gz"))
    array = sitk.GetArrayFromImage(label)
    centre = [int(np.median(axis)) for axis in np.nonzero(array)]
    start = [max(0, min(c - w // 2, n - w)) for c, w, n in zip(centre, LARGEST, array.shape)]
    box = tuple(slice(s, s + w) for s, w in zip(start, LARGEST))
    slices = tuple(reversed(box))
    pictures = [image, sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 1.0),
                sitk.GradientMagnitude(sitk.Cast(image, sitk.sitkFloat32)), -sitk.Cast(image, sitk.sitkFloat32)]  # fmt: skip
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for channel, picture in enumerate(pictures[:copies]):
        sitk.WriteImage(picture[slices], str(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"))
    sitk.WriteImage(label[slices], str(folder / "labelsTr" / label_file.name))


def plan(target: Target, preprocessed: Path) -> None:
    """Run the target's command, cut patch and batch down, and put its data where the plans look for them."""
    folder = next(iter(preprocessed.glob(f"Dataset{target.dataset}_*")), None)
    file = folder / f"{target.plans}.json" if folder else None
    if file is None or not file.is_file():
        subprocess.run(target.command.format(d=target.dataset).split(), check=True)
        folder = next(iter(preprocessed.glob(f"Dataset{target.dataset}_*")))
        if target.command.startswith("nnUNetv2"):
            preprocess = (
                f"nnUNetv2_preprocess -d {target.dataset} -plans_name {target.plans} -c {target.configuration} -np 1"
            )
            subprocess.run(preprocess.split(), check=True)
    assert folder is not None
    shrink(folder / f"{target.plans}.json", target.configuration, target.patch)
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (folder / "gt_segmentations").glob("*.nii.gz"))
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))


def shrink(file: Path, configuration: str, patch: tuple[int, ...]) -> None:
    """A patch and batch for two processors; preprocessed data do not depend on them."""
    plans = json.loads(file.read_text())
    settings = plans["configurations"][configuration]
    stages = settings["architecture"]["arch_kwargs"]["strides"]
    total = np.prod(np.array(stages), axis=0)
    settings["patch_size"] = [int(-(-max(p, 2 * t) // t) * t) for p, t in zip(patch, total)]
    settings["batch_size"] = 2
    file.write_text(json.dumps(plans, indent=1))


def drop(folder: Path) -> None:
    """Forget a folder of a finished cell."""
    shutil.rmtree(folder, ignore_errors=True)
