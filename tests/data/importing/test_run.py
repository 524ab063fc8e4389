"""`nnssl_import` on folders as people have them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.data.images import voxel_digest
from tests.conftest import write_image
from tests.data.importing import dicom_files as d
from tests.data.importing.pools import cases, ct, import_into, report


@pytest.fixture
def raw(nnunet_folders: Path) -> Path:
    return nnunet_folders / "raw"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def fill(source: Path) -> None:
    """One image of every kind, a label map, and rubbish."""
    write_image(ct(1), source / "b" / "one.nii.gz", (3, 0.8, 0.8))
    write_image(ct(2), source / "b" / "two.nii", (3, 0.8, 0.8))
    write_image(ct(3), source / "c" / "three.nrrd")
    write_image(ct(4), source / "c" / "four.mha")
    write_image(ct(5), source / "c" / "five.mhd")
    write_image((ct(1) > 0).astype(np.uint8) * 3, source / "b" / "one_seg.nii.gz", (3, 0.8, 0.8))
    d.write_series(source / "a", d.volume(seed=6))
    (source / "b" / "notes.txt").write_text("x")
    (source / "b" / "._one.nii.gz").write_bytes(b"\0\5\x16\7")
    (source / "b" / "bad.nii.gz").write_bytes(b"not an image")


def test_every_kind_is_found_and_checked(raw: Path, source: Path, capfd: pytest.CaptureFixture) -> None:
    fill(source)
    assert import_into(500, source, "--channel", "ct") == 0
    folder = raw / "Dataset500_Pool"
    assert cases(folder) == [f"Pool_{n:04d}_0000.nii.gz" for n in range(1, 7)]
    found = report(folder)
    assert [c["kind"] for c in found["cases"].values()] == ["DICOM", "NIfTI", "NIfTI", "MetaImage", "MetaImage", "NRRD"]
    assert {r["what"]: r["reason"].split(",")[0] for r in found["left_out"]} == {
        "b/bad.nii.gz": "not gzip data",
        "b/one_seg.nii.gz": "looks like a label map",
    }
    assert found["other_files"] == {".raw": 1, ".txt": 1, "hidden": 1}
    description = json.loads((folder / "dataset.json").read_text())
    assert description == {
        "channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 6,
    }  # fmt: skip
    for name, case in found["cases"].items():
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{name}_0000.nii.gz"))
        array = sitk.GetArrayFromImage(image)
        assert case["digest"] == voxel_digest(array[None].astype(np.float32))
        assert case["shape"] == list(array.shape)
        assert case["dtype"] == str(array.dtype) == "int16"
    out = capfd.readouterr().out
    assert "taken        6" in out
    assert "nnssl_plan_and_preprocess -d 500" in out
    assert [p.name for p in raw.iterdir()] == ["Dataset500_Pool"]


def test_nothing_of_the_patient_gets_into_the_pool(raw: Path, source: Path, capfd: pytest.CaptureFixture) -> None:
    folder = source / "MUELLER_HANS_19440101"
    d.write_series(folder / "CT", d.volume())
    d.write_series(folder / "scout", d.volume(seed=1), series=2, image_type="ORIGINAL\\PRIMARY\\LOCALIZER")
    d.write_dicom(folder / "rt", d.patient(d.RTSTRUCT, "RTSTRUCT", 3, 1))
    d.write_series(folder / "damaged", d.volume(seed=2), series=4)
    nifti = nib.Nifti1Image(ct(7), np.diag([1.0, 1, 2, 1]))
    nifti.header["descrip"], nifti.header["aux_file"] = b"Mustermann Erika", b"PID4711"
    nifti.header["intent_name"], nifti.header["db_name"] = b"Mustermann", b"PID4711"
    nifti.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Mustermann^Erika 20190531"))
    nib.save(nifti, source / "x.nii.gz")
    image = sitk.GetImageFromArray(ct(8))
    image.SetMetaData("PatientName", "Mustermann^Erika")
    sitk.WriteImage(image, str(source / "y.nrrd"))
    assert import_into(500, source, "--channel", "CT", "--mapping", source.parent / "map.csv") == 0
    pool = raw / "Dataset500_Pool"
    assert len(cases(pool)) == 4
    secrets = [s.encode() for s in (*d.SECRETS, "MUELLER", str(source))]
    for file in (p for p in pool.rglob("*") if p.is_file()):
        content = file.name.encode() + file.read_bytes()
        if file.suffix == ".gz":
            content += gzip.decompress(file.read_bytes())
            with gzip.open(file) as f:
                f.read(1)
            assert file.read_bytes()[3] & 0x08 == 0  # no file name in the gzip header
        assert not [s for s in secrets if s in content], file
    rows = list(csv.DictReader((source.parent / "map.csv").open()))
    assert [r["case"] for r in rows if r["case"]] == [f"Pool_{n:04d}" for n in range(1, 5)]
    assert sum("MUELLER_HANS" in row["source"] for row in rows) == 4
    out = capfd.readouterr()
    assert "Mustermann" not in out.out + out.err


def test_copied_nifti_keeps_voxels_and_geometry(raw: Path, source: Path) -> None:
    """Byte order, scale factors and both transforms stay as they are."""
    stored = ct(1).T.astype(">i2")
    affine = np.array([[0, -0.7, 0, 10], [0.7, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    nifti = nib.Nifti1Image(stored, affine, nib.Nifti1Header(endianness=">"))
    nifti.header.set_data_dtype(">i2")
    nifti.header.set_slope_inter(1, 0)
    nifti.header["descrip"] = b"somebody"
    nib.save(nifti, source / "x.nii")
    assert import_into(500, source, "--channel", "CT") == 0
    before = nib.load(source / "x.nii")
    after = nib.load(raw / "Dataset500_Pool" / "imagesTr" / "Pool_0001_0000.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj))
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header["descrip"] == b""
    assert after.header.endianness == ">"


def test_result_does_not_depend_on_the_number_of_processes(raw: Path, source: Path) -> None:
    fill(source)
    assert import_into(500, source, "--channel", "CT", processes=1) == 0
    assert import_into(501, source, "--channel", "CT", processes=2) == 0
    assert report(raw / "Dataset500_Pool") == report(raw / "Dataset501_Pool")
    for name in cases(raw / "Dataset500_Pool"):
        a, b = ((raw / f"Dataset50{i}_Pool" / "imagesTr" / name).read_bytes() for i in (0, 1))
        assert a == b, name


def test_duplicates_are_taken_once(raw: Path, source: Path) -> None:
    write_image(ct(1), source / "a.nii.gz")
    write_image(ct(1), source / "deep" / "b.nrrd")
    write_image(ct(1).astype(np.float64), source / "deep" / "c.nii.gz")
    (source / "link.nii.gz").symlink_to(source / "a.nii.gz")
    assert import_into(500, source, source / "a.nii.gz", "--channel", "CT") == 0
    found = report(raw / "Dataset500_Pool")
    assert list(found["cases"]) == ["Pool_0001"]
    assert [entry["of"] for entry in found["duplicates"]] == ["Pool_0001", "Pool_0001"]


def test_link_links_what_needs_no_change(raw: Path, source: Path) -> None:
    write_image(ct(1), source / "a.nii.gz")
    write_image(ct(2), source / "b.nii")
    write_image(ct(3).astype(np.float64), source / "c.nii.gz")
    assert import_into(500, source, "--channel", "CT", "--link") == 0
    images = raw / "Dataset500_Pool" / "imagesTr"
    assert [(images / n).is_symlink() for n in cases(raw / "Dataset500_Pool")] == [True, False, False]
    assert (images / "Pool_0001_0000.nii.gz").resolve() == (source / "a.nii.gz").resolve()
    assert [c["linked"] for c in report(raw / "Dataset500_Pool")["cases"].values()] == [True, False, False]
    assert report(raw / "Dataset500_Pool")["cases"]["Pool_0003"]["dtype"] == "float32"


def test_orientation_is_recorded_or_made_one(raw: Path, source: Path, capfd: pytest.CaptureFixture) -> None:
    for n, code in enumerate(("LPS", "RAS", "RAS")):
        image = sitk.DICOMOrient(sitk.GetImageFromArray(ct(n)), code)
        sitk.WriteImage(image, str(source / f"{n}.nii.gz"))
    assert import_into(500, source, "--channel", "CT") == 0
    found = report(raw / "Dataset500_Pool")
    assert [c["orientation"] for c in found["cases"].values()] == ["LPS", "RAS", "RAS"]
    assert "RAS (2), LPS (1)" in found["notes"][0]
    assert "mixes orientations" in capfd.readouterr().out
    assert import_into(501, source, "--channel", "CT", "--orientation", "ras", "--link") == 0
    found = report(raw / "Dataset501_Pool")
    assert not found["notes"]
    assert [c["linked"] for c in found["cases"].values()] == [False, True, True]
    image = sitk.ReadImage(str(raw / "Dataset501_Pool" / "imagesTr" / "Pool_0001_0000.nii.gz"))
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    np.testing.assert_array_equal(back, ct(0))


def test_orientations_are_compared_with_what_is_there_already(raw: Path, source: Path) -> None:
    for n, code in enumerate(("LPS", "RAS")):
        sitk.WriteImage(sitk.DICOMOrient(sitk.GetImageFromArray(ct(n)), code), str(source / f"{n}.nii.gz"))
        assert import_into(500, source / f"{n}.nii.gz", "--channel", "CT", "--add") == 0
    assert ["LPS (1), RAS (1)" in note for note in report(raw / "Dataset500_Pool")["notes"]] == [True]


def cine(source: Path, frames: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    data = rng.integers(1, 400, (24, 20, 10, frames)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([1.5, 1.5, 8, 1])), source / "sub-07_cine.nii.gz")
    return data


def test_time_series_are_split(raw: Path, source: Path) -> None:
    data = cine(source)
    assert import_into(500, source, "--channel", "MR") == 0
    folder = raw / "Dataset500_Pool"
    assert cases(folder) == [f"Pool_0001_frame{t:03d}_0000.nii.gz" for t in range(1, 7)]
    for t, name in enumerate(cases(folder)):
        image = nib.load(folder / "imagesTr" / name)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), data[..., t])
        np.testing.assert_allclose(image.header.get_zooms(), (1.5, 1.5, 8))
    rows = list(csv.DictReader((folder / "subjects.csv").open()))
    assert {row["subject"] for row in rows} == {"subject_0001"}
    assert len(rows) == 6


def test_some_frames_are_spread_over_time(raw: Path, source: Path) -> None:
    cine(source)
    assert import_into(500, source, "--channel", "MR", "--frames", "3") == 0
    names = [n[:-12] for n in cases(raw / "Dataset500_Pool")]
    assert names == ["Pool_0001_frame001", "Pool_0001_frame003", "Pool_0001_frame006"]


def test_one_bad_frame_does_not_lose_the_others(raw: Path, source: Path) -> None:
    data = cine(source)
    data[..., 2] = 7
    nib.save(nib.Nifti1Image(data, np.eye(4)), source / "sub-07_cine.nii.gz")
    assert import_into(500, source, "--channel", "MR") == 0
    found = report(raw / "Dataset500_Pool")
    assert len(found["cases"]) == 5
    assert found["left_out"][0]["what"] == "sub-07_cine.nii.gz, frame 3"


def test_subjects_are_numbered_and_frames_of_dicom_share_one(raw: Path, source: Path) -> None:
    for n, person in enumerate(("A", "B", "A")):
        d.write_series(source / str(n), d.volume(seed=n), series=n + 1, patient_id=person)
    for t in range(2):
        d.write_series(
            source / "time", d.volume(seed=5 + t), series=9, first=1 + 10 * t, extra={(0x20, 0x100): ("IS", t)},
            patient_id="C",
        )  # fmt: skip
    assert import_into(500, source, "--channel", "CT") == 0
    rows = {r["case"]: r["subject"] for r in csv.DictReader((raw / "Dataset500_Pool" / "subjects.csv").open())}
    assert rows == {
        "Pool_0001": "subject_0001", "Pool_0002": "subject_0002", "Pool_0003": "subject_0001",
        "Pool_0004_frame001": "subject_0003", "Pool_0004_frame002": "subject_0003",
    }  # fmt: skip


def test_adding_goes_on_numbering_and_knows_what_is_there(raw: Path, source: Path) -> None:
    write_image(ct(1), source / "a.nii.gz")
    write_image(ct(2), source / "b.nii.gz")
    assert import_into(500, source / "a.nii.gz", "--channel", "CT") == 0
    assert import_into(500, source, "--channel", "CT") == 2  # exists
    assert import_into(500, source, "--channel", "CT", "--add") == 0
    folder = raw / "Dataset500_Pool"
    assert cases(folder) == ["Pool_0001_0000.nii.gz", "Pool_0002_0000.nii.gz"]
    found = report(folder)
    assert found["duplicates"] == [{"what": "a.nii.gz", "of": "Pool_0001"}]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert import_into(500, source, "--channel", "CT", "--add") == 2  # nothing new
    assert import_into(500, source, "--channel", "MR", "--add") == 2  # another channel
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in raw.iterdir()] == ["Dataset500_Pool"]


def test_one_patient_number_for_all_is_pointed_out(raw: Path, source: Path) -> None:
    for n in range(5):
        d.write_series(source / str(n), d.volume(seed=n), series=n + 1)
    assert import_into(500, source, "--channel", "CT") == 0
    assert "delete subjects.csv" in report(raw / "Dataset500_Pool")["notes"][0]


def test_kept_names_do_not_collide(raw: Path, source: Path) -> None:
    write_image(ct(1), source / "a" / "t1 scan.nii.gz")
    write_image(ct(2), source / "b" / "t1 scan.nii.gz")
    d.write_series(source / "c", d.volume(seed=3))
    assert import_into(500, source, "--channel", "CT", "--keep-names") == 0
    names = [n.removesuffix("_0000.nii.gz") for n in cases(raw / "Dataset500_Pool")]
    assert names == ["Pool_0001", "t1_scan", "t1_scan_2"]


def test_include_and_exclude(raw: Path, source: Path) -> None:
    for n, name in enumerate(("x/a_t1.nii.gz", "x/b_t2.nii.gz", "y/c_t1.nii.gz", "y/old/d_t1.nii.gz")):
        write_image(ct(n), source / name)
    assert (
        import_into(500, source, "--channel", "CT", "--include", "*_t1*", "--exclude", "*/old/*", "--keep-names") == 0
    )
    assert cases(raw / "Dataset500_Pool") == ["a_t1_0000.nii.gz", "c_t1_0000.nii.gz"]


def test_label_maps_on_request(raw: Path, source: Path) -> None:
    write_image(ct(1), source / "a.nii.gz")
    write_image((ct(1) > 0).astype(np.uint8), source / "labelsTr" / "a.nii.gz")
    assert import_into(500, source, "--channel", "CT") == 0
    assert report(raw / "Dataset500_Pool")["left_out"][0]["reason"] == "a folder of labels"
    assert import_into(501, source, "--channel", "CT", "--include-labels") == 0
    assert len(cases(raw / "Dataset501_Pool")) == 2


def test_ct_that_is_none_is_taken_with_a_warning(raw: Path, source: Path) -> None:
    write_image(np.clip(ct(1) // 8 + 128, 0, 255).astype(np.uint8), source / "a.nii.gz")
    assert import_into(500, source, "--channel", "CT") == 0
    assert "hardly CT in Hounsfield units" in report(raw / "Dataset500_Pool")["cases"]["Pool_0001"]["notes"][0]
