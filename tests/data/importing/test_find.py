from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnssl.data.importing.datasets import dataset_label, is_dataset, stem_of
from nnssl.data.importing.find import Selection, find_images
from nnssl.data.importing.items import Found
from nnssl.errors import MissingError, NnsslError
from tests.conftest import make_raw, write_image
from tests.data.importing import dicom_files as d


def find(*sources: Path, channel: str | None = "CT", processes: int = 1, **how: object) -> Found:
    return find_images([str(s) for s in sources], channel, Selection(**how), processes)  # type: ignore[arg-type]


def names(found: Found) -> list[str]:
    return [item.where for item in found.items]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.nii.gz", "a/1.nii.gz", "a/deep/0.mha", "c.nrrd"):
        write_image(np.zeros((9, 9, 9), np.int16), tmp_path / "in" / name)
    return tmp_path / "in"


def test_order_is_fixed_and_nothing_is_met_twice(folder: Path) -> None:
    expected = ["c.nrrd", "a/1.nii.gz", "a/deep/0.mha", "b/2.nii.gz"]
    assert names(find(folder)) == expected
    (folder / "circle").symlink_to(folder)
    (folder / "z_again.nii.gz").symlink_to(folder / "b" / "2.nii.gz")
    assert len(find(folder, folder / "b", folder / "a" / "1.nii.gz").items) == 4


def test_links_to_folders_are_followed_and_dangling_links_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "x").symlink_to(folder / "a")
    (tmp_path / "linked" / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    found = find(tmp_path / "linked")
    assert names(found) == ["x/1.nii.gz", "x/deep/0.mha"]
    assert [(o.where, o.reason) for o in found.left_out] == [("gone.nii.gz", "a dangling link")]


def test_hidden_files_and_others_are_counted(folder: Path) -> None:
    for name in ("._c.nrrd", ".DS_Store", "info.txt", "readme", "a/.hidden/9.nii.gz", "__MACOSX/c.nrrd"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = find(folder)
    assert len(found.items) == 4
    assert found.other_files == {"hidden": 4, ".txt": 1, "no ending": 1}


def test_several_sources_are_told_apart_by_their_names(folder: Path) -> None:
    assert names(find(folder / "b", folder / "a")) == ["b/2.nii.gz", "a/1.nii.gz", "a/deep/0.mha"]


def test_series_stands_where_its_first_file_lies(folder: Path) -> None:
    d.write_series(folder / "a" / "dicom", d.volume())
    (folder / "a" / "dicom" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    found = find(folder)
    assert names(found) == ["c.nrrd", "a/1.nii.gz", "a/deep/0.mha", "series 1 (CT, 10 image(s) of 24x20)", "b/2.nii.gz"]
    assert found.left_out[0].where == "1 DICOM file(s)"


def test_headers_read_by_workers_are_the_same(tmp_path: Path) -> None:
    for n in range(9):
        d.write_series(tmp_path / str(n), d.volume((90, 9, 9), n), series=n + 1)
    assert find(tmp_path, processes=2).items == find(tmp_path).items


def test_datasets_inside_a_folder_are_datasets(tmp_path: Path) -> None:
    make_raw(tmp_path / "all", "Dataset007_A", 2, 1)
    write_image(np.zeros((9, 9, 9), np.int16), tmp_path / "all" / "loose.nii.gz")
    found = find(tmp_path / "all")
    assert names(found) == ["loose.nii.gz", "Dataset007_A/imagesTr/case_000", "Dataset007_A/imagesTr/case_001"]
    assert found.channel_names == {"Dataset007_A": ("MRI",)}


def test_subjects_from_names(tmp_path: Path) -> None:
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/x.nii.gz", "patient003_frame01.nii.gz", "other.nii.gz"):
        write_image(np.zeros((9, 9, 9), np.int16), tmp_path / name)
    subjects = {item.where: item.subject.rpartition("|")[2] for item in find(tmp_path).items}
    assert subjects == {
        "other.nii.gz": "", "patient003_frame01.nii.gz": "patient003", "sub-01/anat/sub-01_T1w.nii.gz": "sub-01",
        "sub-02/x.nii.gz": "sub-02",
    }  # fmt: skip


def test_channel_is_asked_for_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(NnsslError, match=r"--channel is needed: what does c\.nrrd show"):
        find(folder, channel=None)


def test_missing_sources(nnunet_folders: Path) -> None:
    with pytest.raises(MissingError, match="source /nowhere does not exist"):
        find(Path("/nowhere"))
    with pytest.raises(MissingError, match="dataset 77 not found"):
        find(Path("77"))


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ("[]", "JSON object"), ("{}", "neither channel_names nor modality")],
)
def test_datasets_with_a_bad_description(tmp_path: Path, content: str, said: str) -> None:
    folder = make_raw(tmp_path, "Dataset007_A", 1, 0)
    (folder / "dataset.json").write_text(content)
    with pytest.raises(NnsslError, match=said):
        find(folder)


def test_datasets_of_pictures_are_pointed_to_the_planner(tmp_path: Path) -> None:
    folder = make_raw(tmp_path, "Dataset007_A", 1, 0)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "R"}, "file_ending": ".png"}))
    with pytest.raises(NnsslError, match=r"'\.png' are not imported"):
        find(folder)


def test_one_bad_dataset_among_many_is_left_out(tmp_path: Path) -> None:
    make_raw(tmp_path, "Dataset007_A", 1, 0)
    (make_raw(tmp_path, "Dataset008_B", 1, 0) / "dataset.json").write_text("{}")
    found = find(tmp_path)
    assert names(found) == ["Dataset007_A/imagesTr/case_000"]
    assert "dataset.json has neither channel_names" in found.left_out[0].reason
    assert str(tmp_path) not in found.left_out[0].reason


def test_decathlon_names_may_have_four_digits(tmp_path: Path) -> None:
    folder = make_raw(tmp_path, "Task009_A", 2, 0)
    content = {"modality": {"0": "CT"}, "training": [{"image": "./imagesTr/case_000_0000.nii.gz"}], "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert [item.name for item in find(folder).items] == ["case_000_0000", "case_001_0000"]


def test_version_one_datasets(tmp_path: Path) -> None:
    """nnU-Net's first version wrote a Decathlon dataset.json and names with _0000."""
    folder = make_raw(tmp_path, "Task007_A", 2, 0)
    content = {"modality": {"0": "CT"}, "training": [{"image": "./imagesTr/case_000.nii.gz"}], "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert [item.name for item in find(folder).items] == ["case_000", "case_001"]


def test_labels_and_names_of_datasets(tmp_path: Path) -> None:
    assert dataset_label(Path("x/Dataset004_Hippocampus")) == dataset_label(Path("Task04_Hippocampus")) == "004"
    assert dataset_label(Path("my data")) == "my-data"
    assert not is_dataset(tmp_path)
    assert stem_of(Path("a.b.nii.gz")) == "a.b"
    assert stem_of(Path("A.NRRD")) == "A"
