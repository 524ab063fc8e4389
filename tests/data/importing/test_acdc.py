"""ACDC as published becomes a labelled dataset and a pool of the training patients' cine frames."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.importing.acdc import AcdcImport, import_acdc
from nnssl.data.importing.acdc_tables import deal_patients, splits
from nnssl.data.subjects import read_subjects
from nnssl.errors import MissingError, NnsslError
from nnssl.files import read_json
from tests.conftest import real_data, run_command
from tests.data.importing.acdc_files import (
    Acdc,
    heart,
    remove,
    truncate,
    voxels,
    write_acdc,
    write_nifti,
    write_patient,
)

LABELLED, POOL = "Dataset027_ACDC", "Dataset500_ACDCcine"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(folder))
    return folder


def run(
    folder: Path, labelled: str | None = LABELLED, pool: str | None = POOL, frames: int | None = None
) -> AcdcImport:
    return import_acdc(folder, labelled, pool, frames, 1)


def names(folder: Path) -> set[str]:
    return {p.name.removesuffix(".nii.gz") for p in folder.glob("*.nii.gz")}


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def report(folder: Path) -> dict[str, Any]:
    return read_json(folder / "import_report.json")


@pytest.mark.parametrize("form", ["gz", "nii", "folder"])
def test_both_datasets_from_every_form(tmp_path: Path, raw: Path, form: str) -> None:
    run(write_acdc(tmp_path / "ACDC" / "database", 3, 1, Acdc(form=form)).parent)
    labelled, pool = raw / LABELLED, raw / POOL
    patients = ("patient001", "patient002", "patient003")
    assert names(labelled / "imagesTr") == {f"{p}_frame{n}_0000" for p in patients for n in ("01", "04")}
    assert names(labelled / "labelsTr") == {f"{p}_frame{n}" for p in patients for n in ("01", "04")}
    assert names(labelled / "imagesTs") == {"patient101_frame01_0000", "patient101_frame04_0000"}
    assert names(labelled / "labelsTs") == {"patient101_frame01", "patient101_frame04"}
    assert names(pool / "imagesTr") == {f"{p}_frame{n:02d}_0000" for p in patients for n in range(1, 7)}
    assert {p.name for p in raw.iterdir()} == {LABELLED, POOL}  # nothing temporary stays
    assert (labelled / "MANDATORY_CITATION.md").is_file() == (pool / "MANDATORY_CITATION.md").is_file() is True
    assert read_json(labelled / "dataset.json")["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    assert read_json(labelled / "dataset.json")["numTraining"] == 6
    assert read_json(pool / "dataset.json")["labels"] == {"background": 0}
    assert not report(labelled)["left_out"] and not report(pool)["left_out"]


def test_voxels_labels_and_grid_arrive(tmp_path: Path, raw: Path) -> None:
    run(write_acdc(tmp_path / "ACDC", 1, 0))
    cine = voxels(1, Acdc())
    for number in range(1, 7):
        image = sitk.ReadImage(str(raw / POOL / "imagesTr" / f"patient001_frame{number:02d}_0000.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image).T, cine[..., number - 1])
        assert image.GetSpacing() == pytest.approx((1.5, 1.25, 10.0))
        assert image.GetOrigin() == pytest.approx((-5.0, 7.0, 30.0))  # the frame files' grid, not the 4D file's
    assert any("grid of the 4D file differs" in note for note in report(raw / POOL)["notes"])
    label = sitk.ReadImage(str(raw / LABELLED / "labelsTr" / "patient001_frame04.nii.gz"))
    assert label.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(label).T, heart(Acdc().shape))


def test_tables(tmp_path: Path, raw: Path) -> None:
    run(write_acdc(tmp_path / "ACDC", 2, 1))
    cases = table(raw / LABELLED / "cases.csv")
    assert cases["patient001_frame04"] == {
        "case": "patient001_frame04", "patient": "patient001", "set": "training", "frame": "4", "phase": "ES",
        "group": "HCM", "height": "161", "weight": "61.5", "nb_frame": "6", "spacing": "10x1.25x1.5",
    }  # fmt: skip
    assert cases["patient101_frame01"]["set"] == "testing" and cases["patient101_frame01"]["phase"] == "ED"
    pool = table(raw / POOL / "cases.csv")
    assert [pool[f"patient002_frame0{n}"]["phase"] for n in range(1, 7)] == ["ED", "", "", "ES", "", ""]
    assert read_subjects(raw / POOL, pool) == {case: case[:10] for case in pool}


def test_labelled_frames_are_frames_of_the_pool(tmp_path: Path, raw: Path) -> None:
    run(write_acdc(tmp_path / "ACDC", 2, 1))
    pool = {case: entry["digest"] for case, entry in report(raw / POOL)["cases"].items()}
    labelled = report(raw / LABELLED)
    assert all(pool[case] == entry["digest"] for case, entry in labelled["cases"].items())
    assert not {entry["digest"] for entry in labelled["testing_cases"].values()} & set(pool.values())


def test_folds_keep_patients_together_and_spread_groups(tmp_path: Path, raw: Path) -> None:
    run(write_acdc(tmp_path / "ACDC", 10, 0), pool=None)
    cases = table(raw / LABELLED / "cases.csv")
    folds = read_json(raw / LABELLED / "splits_final.json")
    assert len(folds) == 5
    for fold in folds:
        assert set(fold["train"]) | set(fold["val"]) == set(cases)
        assert not {cases[c]["patient"] for c in fold["train"]} & {cases[c]["patient"] for c in fold["val"]}
        assert len(fold["val"]) == 4
    assert sorted(c for fold in folds for c in fold["val"]) == sorted(cases)


def test_folds_are_even_however_many_patients_a_group_has() -> None:
    counts = {"DCM": 20, "HCM": 7, "RV": 2, "": 1}
    rows = [
        {"case": f"{g}{i}_{f}", "patient": f"{g}{i}", "group": g}
        for g, n in counts.items()
        for i in range(n)
        for f in "ab"
    ]
    folds = splits(rows, deal_patients(rows))
    assert sorted(len(f["val"]) for f in folds) == [12] * 5
    for group in counts:
        share = [sum(r["group"] == group for r in rows if r["case"] in f["val"]) // 2 for f in folds]
        assert max(share) - min(share) <= 1
    assert deal_patients(rows) == deal_patients(rows[::-1]) != deal_patients(rows, seed=1)
    assert max(deal_patients(rows[:6]).values()) == 2  # as many folds as patients


def test_pool_has_the_folds_of_the_labelled_dataset(tmp_path: Path, raw: Path) -> None:
    root = write_acdc(tmp_path / "ACDC", 7, 1)
    for file in (root / "training" / "patient004").glob("*_gt*"):
        remove(file)
    run(root)
    labelled, pool = (read_json(raw / name / "splits_final.json") for name in (LABELLED, POOL))
    assert len(labelled) == len(pool) == 5
    for ours, theirs in zip(pool, labelled):
        assert {c[:10] for c in ours["val"]} == {c[:10] for c in theirs["val"]} != set()
        assert {c[:10] for c in ours["train"]} == {c[:10] for c in theirs["train"]} | {"patient004"}
        assert not any(c.startswith("patient101") for c in ours["train"] + ours["val"])


def test_frames_are_spread_over_the_cine_scan(tmp_path: Path, raw: Path) -> None:
    run(write_acdc(tmp_path / "ACDC", 1, 0), labelled=None, frames=3)
    there = sorted(int(name[16:18]) for name in names(raw / POOL / "imagesTr"))
    assert len(there) == 3 and there[0] == 1 and there[-1] == 6 and np.ptp(np.diff(there)) <= 1


def test_patients_without_set_folders_go_by_their_number(tmp_path: Path, raw: Path) -> None:
    for number in (1, 2, 100, 101, 150):
        write_patient(tmp_path / "test" / "flat", number, Acdc())  # a folder above says nothing
    run(tmp_path / "test" / "flat")
    assert {row["patient"] for row in table(raw / POOL / "cases.csv").values()} == {
        "patient001",
        "patient002",
        "patient100",
    }
    assert {n[:10] for n in names(raw / LABELLED / "imagesTs")} == {"patient101", "patient150"}


def test_set_folders_count_more_than_numbers(tmp_path: Path, raw: Path) -> None:
    write_patient(tmp_path / "ACDC" / "training", 120, Acdc())
    write_patient(tmp_path / "ACDC" / "testing", 3, Acdc(), labels=False)
    run(tmp_path / "ACDC")
    assert {row["patient"] for row in table(raw / POOL / "cases.csv").values()} == {"patient120"}
    assert names(raw / LABELLED / "imagesTs") == {"patient003_frame01_0000", "patient003_frame04_0000"}
    assert not (raw / LABELLED / "labelsTs").exists()


def test_what_is_missing_or_broken_is_named_and_the_rest_is_taken(tmp_path: Path, raw: Path) -> None:
    root = write_acdc(tmp_path / "ACDC", 9, 0) / "training"
    affine = nib.load(root / "patient001" / "patient001_frame01.nii.gz").affine
    remove(root / "patient001" / "patient001_4d.nii.gz")
    remove(root / "patient002" / "Info.cfg")
    remove(root / "patient003" / "patient003_frame04_gt.nii.gz")
    remove(root / "patient004" / "patient004_frame04_gt.nii.gz")
    write_nifti(root / "patient004", "patient004_frame04_gt", heart((20, 16, 6)), affine, "gz")
    (root / "patient005" / "Info.cfg").write_text("ED: 1\nES: 4\nGroup: NOR\nHeight: tall\nNbFrame: 30\nWeight: 70\n")
    truncate(root / "patient006" / "patient006_4d.nii.gz")
    truncate(root / "patient007" / "patient007_frame01.nii.gz")
    remove(root / "patient008" / "patient008_frame04_gt.nii.gz")
    write_nifti(root / "patient008", "patient008_frame04_gt", heart((20, 16, 5)) * 2, affine, "gz")
    remove(root / "patient009" / "patient009_frame04.nii.gz")
    made = run(tmp_path / "ACDC")
    left_out, notes = dict(made.left_out), [f"{where}: {text}" for where, text in made.notes]
    assert "no label" in left_out["patient003_frame04"]
    assert "20x16x6 against 20x16x5 voxels" in left_out["patient004_frame04"]
    assert "truncated" in left_out["patient006_4d"]
    assert "truncated" in left_out["patient007_frame01"]
    assert "value(s) 4, 6" in left_out["patient008_frame04"]
    assert "label without its image" in left_out["patient009_frame04"]
    assert set(left_out) == {f"patient00{i}_frame04" for i in (3, 4, 8, 9)} | {"patient006_4d", "patient007_frame01"}
    for part in (
        "patient001: no usable 4D",
        "patient002: no Info.cfg",
        "no usable height (tall)",
        "says 30 frames",
        "frame 4 as ES",
    ):
        assert any(part in note for note in notes), part
    pool = names(raw / POOL / "imagesTr")
    count = {i: sum(n.startswith(f"patient00{i}") for n in pool) for i in range(1, 10)}
    assert count == {1: 2, 2: 6, 3: 6, 4: 6, 5: 6, 6: 2, 7: 6, 8: 6, 9: 6}
    assert table(raw / LABELLED / "cases.csv")["patient002_frame01"]["phase"] == ""
    assert report(raw / POOL)["left_out"] == report(raw / LABELLED)["left_out"] != []


def test_a_label_on_another_grid_is_refused(tmp_path: Path, raw: Path) -> None:
    root = write_acdc(tmp_path / "ACDC", 2, 0) / "training" / "patient001"
    remove(root / "patient001_frame01_gt.nii.gz")
    write_nifti(root, "patient001_frame01_gt", heart((20, 16, 5)), np.diag([-1.0, -1.0, 10.0, 1.0]), "gz")
    assert "mm apart" in dict(run(tmp_path / "ACDC", pool=None).left_out)["patient001_frame01"]


def test_a_frame_file_that_is_not_the_frame_of_the_4d_file_is_reported(tmp_path: Path, raw: Path) -> None:
    root = write_acdc(tmp_path / "ACDC", 2, 0) / "training" / "patient001"
    remove(root / "patient001_frame04.nii.gz")
    other = voxels(1, Acdc())[..., 4]  # counted from 0: frame 5
    affine = nib.load(root / "patient001_frame01.nii.gz").affine
    write_nifti(root, "patient001_frame04", other, affine, "gz")
    made = run(tmp_path / "ACDC")
    assert "those of its frame 5" in dict(made.notes)["patient001_frame04"]
    digests = {case: entry["digest"] for case, entry in report(raw / POOL)["cases"].items()}
    assert digests["patient001_frame04"] == report(raw / LABELLED)["cases"]["patient001_frame04"]["digest"]
    assert report(raw / POOL)["duplicates"] == [{"what": "patient001_frame05", "of": "patient001_frame04"}]


def test_a_testing_frame_among_the_training_files_never_reaches_the_pool(tmp_path: Path, raw: Path) -> None:
    root = write_acdc(tmp_path / "ACDC", 2, 1)
    remove(root / "training" / "patient002" / "patient002_4d.nii.gz")
    leaked = voxels(2, Acdc())
    leaked[..., 2] = voxels(101, Acdc())[..., 0]
    write_nifti(root / "training" / "patient002", "patient002_4d", leaked, np.eye(4), "gz")
    made = run(root, labelled=None)
    assert made.left_out == [("patient002_frame03", "pool: it has the voxels of testing case patient101_frame01")]
    assert "patient002_frame03_0000" not in names(raw / POOL / "imagesTr")


@pytest.mark.parametrize("taken", ["Dataset027_Other", "Dataset500_ACDCcine"])
def test_a_taken_number_changes_nothing(tmp_path: Path, raw: Path, taken: str) -> None:
    (raw / taken).mkdir()
    with pytest.raises(NnsslError, match=taken):
        run(write_acdc(tmp_path / "ACDC", 1, 0))
    assert [p.name for p in raw.iterdir()] == [taken]


def test_nothing_usable_leaves_nothing(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="no folders like"):
        run(tmp_path / "empty")
    with pytest.raises(MissingError, match="is not a folder"):
        run(tmp_path / "nowhere")
    root = write_acdc(tmp_path / "ACDC", 0, 2)
    with pytest.raises(NnsslError, match="no training patient"):
        run(root)
    with pytest.raises(NnsslError, match="number"):
        run(root, None, None)
    assert not list(raw.iterdir())


def test_command(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(write_acdc(tmp_path / "ACDC", 2, 1))
    assert run_command("import_data", "--acdc", root, "-d", "27", "--pool", "500", "--frames", "2", "-np", "1") == 0
    assert len(names(raw / POOL / "imagesTr")) == 4
    printed = capsys.readouterr().out
    assert "4 labelled cases of 2 training patients" in printed and "--like 27" in printed
    for wrong, said in (
        (("-d", "28", "--pool", "28"), "two numbers"),
        (("-d", "28", "--channel", "CT"), "leave out --channel"),
        (("-d", "27"), "exists"),
    ):
        assert run_command("import_data", "--acdc", root, *wrong) == 2
        assert said in capsys.readouterr().err
    assert {p.name for p in raw.iterdir()} == {LABELLED, POOL}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # processes forked later are not caught by the command's


@pytest.mark.data
def test_real_frames_in_the_published_layout(tmp_path: Path, raw: Path) -> None:
    """Two frames per patient and no 4D file: the pool has what there is."""
    source = real_data("Dataset027_ACDC")
    for case in sorted(table(source / "cases.csv"))[:8]:
        folder = tmp_path / "ACDC" / "training" / case.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{case}.nii.gz").symlink_to(source / "imagesTr" / f"{case}_0000.nii.gz")
        (folder / f"{case}_gt.nii.gz").symlink_to(source / "labelsTr" / f"{case}.nii.gz")
    made = run(tmp_path / "ACDC")
    assert not made.left_out
    assert names(raw / POOL / "imagesTr") == names(raw / LABELLED / "imagesTr")
    for name in names(raw / LABELLED / "labelsTr"):
        ours, theirs = (
            sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz")) for folder in (raw / LABELLED, source)
        )
        assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
        assert ours.GetSpacing() == pytest.approx(theirs.GetSpacing())
    assert sum("no usable 4D file" in text for _, text in made.notes) == 4
