"""`nnssl_import` on nnU-Net datasets and Decathlon tasks."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tests.conftest import make_raw, write_image
from tests.data.importing.pools import cases, import_into, report


@pytest.fixture
def raw(nnunet_folders: Path) -> Path:
    return nnunet_folders / "raw"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def test_datasets_are_merged_with_names_and_subjects(raw: Path) -> None:
    a = make_raw(raw, "Dataset011_A", 3, 2, seed=1)
    make_raw(raw, "Dataset012_B", 2, 0, seed=2)
    shutil.move(a / "imagesTr" / "case_002_0000.nii.gz", a / "imagesTr" / "sub-9_T1w_0000.nii.gz")
    (a / "cases.csv").write_text("case,patient\ncase_000,p7\ncase_001,p7\n")
    assert import_into(500, 11, "Dataset012_B", "--link") == 0
    folder = raw / "Dataset500_Pool"
    assert cases(folder) == [
        "011_case_000_0000.nii.gz", "011_case_001_0000.nii.gz", "011_sub-9_T1w_0000.nii.gz",
        "012_case_000_0000.nii.gz", "012_case_001_0000.nii.gz",
    ]  # fmt: skip
    rows = {r["case"]: r["subject"] for r in csv.DictReader((folder / "subjects.csv").open())}
    assert rows == {"011_case_000": "011_p7", "011_case_001": "011_p7"}
    assert json.loads((folder / "dataset.json").read_text())["channel_names"] == {"0": "MRI"}
    assert import_into(501, 11) == 0
    assert cases(raw / "Dataset501_Pool")[0] == "case_000_0000.nii.gz"


def test_subjects_of_a_dataset_that_is_added_later_are_others(raw: Path) -> None:
    for n, name in enumerate(("Dataset011_A", "Dataset012_B")):
        folder = make_raw(raw, name, 1, 0, seed=n)
        (folder / "subjects.csv").write_text("case,subject\ncase_000,1\n")
    assert import_into(500, 11) == 0
    assert import_into(500, 12, "--add") == 0
    rows = {r["case"]: r["subject"] for r in csv.DictReader((raw / "Dataset500_Pool" / "subjects.csv").open())}
    assert rows == {"case_000": "1", "012_case_000": "012_1"}


def test_several_channels(raw: Path, capfd: pytest.CaptureFixture) -> None:
    for name, channels in (("Dataset011_A", {"0": "T1", "1": "T2"}), ("Dataset012_B", {"0": "T1", "1": "FLAIR"})):
        folder = make_raw(raw, name, 2, 0, seed=len(channels["1"]))
        for n in range(2):
            first = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / f"case_{n:03d}_0000.nii.gz")))
            write_image(first * 2, folder / "imagesTr" / f"case_{n:03d}_0001.nii.gz")
        description = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**description, "channel_names": channels}))
    make_raw(raw, "Dataset013_C", 1, 0, seed=9)
    assert import_into(500, 11, 13) == 2
    error = capfd.readouterr().err
    assert "Dataset011_A has 2 channel(s) (T1, T2)" in error
    assert "Dataset013_C has 1 channel(s) (MRI)" in error
    assert import_into(500, 11, 12) == 2
    assert import_into(500, 11, 12, "--channel", "T1, T2") == 0
    found = report(raw / "Dataset500_Pool")
    assert len(found["cases"]) == 4
    assert "channel names differ" in found["notes"][0]
    assert len(cases(raw / "Dataset500_Pool")) == 8


def decathlon(folder: Path, fourth: int | None = None) -> None:
    rng = np.random.default_rng(1)
    listed = {"training": [], "test": []}
    for part, key in (("imagesTr", "training"), ("imagesTs", "test")):
        for n in range(2):
            shape = (16, 17, 18) if fourth is None else (16, 17, 18, fourth)
            (folder / part).mkdir(parents=True, exist_ok=True)
            name = f"brain_{n + 10 * (key == 'test'):03d}.nii.gz"
            nib.save(nib.Nifti1Image(rng.integers(0, 900, shape).astype(np.int16), np.eye(4)), folder / part / name)
            (folder / part / f"._{name}").write_bytes(b"\0\5\x16\7Mac OS X")
            listed[key].append(f"./{part}/{name}")
    (folder / "labelsTr").mkdir()
    write_image(np.ones((18, 17, 16), np.uint8), folder / "labelsTr" / "brain_000.nii.gz")
    modality = {str(c): name for c, name in enumerate(["FLAIR", "T1w", "t1gd", "T2w"][: fourth or 1])}
    training = [{"image": i, "label": i.replace("images", "labels")} for i in listed["training"]]
    content = {"modality": modality, "labels": {"0": "background"}, "training": training, "test": listed["test"]}
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("fourth", [None, 4])
def test_decathlon_task_as_downloaded(raw: Path, source: Path, fourth: int | None) -> None:
    decathlon(source / "Task01_Brain", fourth)
    assert import_into(500, source) == 0
    channels = fourth or 1
    folder = raw / "Dataset500_Pool"
    assert len(cases(folder)) == 2 * channels
    assert cases(folder)[channels - 1] == f"brain_000_{channels - 1:04d}.nii.gz"
    assert "imagesTs is not taken" in report(folder)["notes"][0]
    data = nib.load(source / "Task01_Brain" / "imagesTr" / "brain_001.nii.gz").get_fdata().reshape(16, 17, 18, -1)
    for c in range(channels):
        found = nib.load(folder / "imagesTr" / f"brain_001_{c:04d}.nii.gz").get_fdata()
        np.testing.assert_array_equal(found, data[..., c])
    assert import_into(501, source / "Task01_Brain", "--with-test") == 0
    assert len(cases(raw / "Dataset501_Pool")) == 4 * channels
