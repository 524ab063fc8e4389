"""Real images, good and broken, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import real_data, run_command

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_broken_files_in_a_pool_of_good_ones(nnunet_folders: Path) -> None:
    good, bad = real_data("Dataset004_Hippocampus"), real_data("odd/bad")
    images = nnunet_folders / "raw" / "Dataset910_Odd" / "imagesTr"
    images.mkdir(parents=True)
    for file in sorted((good / "imagesTr").glob("*.nii.gz"))[:4]:
        shutil.copyfile(file, images / file.name)
    broken = sorted(bad.glob("*.nii.gz"))
    for file in broken:
        shutil.copyfile(file, images / f"{file.name.removesuffix('.nii.gz')}_0000.nii.gz")
    (images.parent / "dataset.json").write_text('{"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}')

    assert run_command("plan_and_preprocess", "-d", "910", "--size", "S", "-np", "2", "-c", "3d_fullres") == 0
    folder = nnunet_folders / "preprocessed" / "Dataset910_Odd"
    report = json.loads((folder / "nnsslPlans_report.json").read_text())
    skipped = report["skipped"]["fingerprint"] | report["skipped"]["3d_fullres"]
    assert set(skipped) == {f.name.removesuffix(".nii.gz") for f in broken}
    assert all(reason and "\n" not in reason for reason in skipped.values())
    assert len(json.loads((folder / "nnsslPlans_3d_fullres_pool.json").read_text())["cases"]) == 4


def test_a_pool_of_only_broken_files_is_one_clear_line(nnunet_folders: Path, capsys: pytest.CaptureFixture) -> None:
    images = nnunet_folders / "raw" / "Dataset911_Bad" / "imagesTr"
    images.mkdir(parents=True)
    for file in real_data("odd/bad").glob("*.nii.gz"):
        shutil.copyfile(file, images / f"{file.name.removesuffix('.nii.gz')}_0000.nii.gz")
    (images.parent / "dataset.json").write_text('{"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}')
    assert run_command("plan_and_preprocess", "-d", "911", "--size", "S", "-np", "2") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: none of the 10 case")
    assert not list((nnunet_folders / "preprocessed").glob("*/*.json"))


def test_anisotropic_cardiac_mr_is_planned_and_preprocessed(nnunet_folders: Path) -> None:
    source = real_data("Dataset027_ACDC")
    target = nnunet_folders / "raw" / "Dataset027_ACDC"
    for kind in ("imagesTr", "labelsTr"):
        (target / kind).mkdir(parents=True)
        for file in sorted((source / kind).glob("*.nii.gz"))[:6]:
            shutil.copyfile(file, target / kind / file.name)
    shutil.copyfile(source / "dataset.json", target / "dataset.json")
    assert run_command("plan_and_preprocess", "-d", "27", "--size", "S", "-np", "2", "-c", "2d", "3d_fullres") == 0
    plans = json.loads((nnunet_folders / "preprocessed" / "Dataset027_ACDC" / "nnsslPlans.json").read_text())
    three = plans["configurations"]["3d_fullres"]
    assert three["spacing"][0] > 3 * three["spacing"][1]
    assert three["architecture"]["arch_kwargs"]["strides"][1][0] == 1, "no pooling across few slices first"
