from __future__ import annotations

from pathlib import Path

import pytest

from nnssl.data.importing.items import DICOM, NIFTI, NNUNET, Item
from nnssl.data.importing.naming import CaseNames, SubjectNames, frame_name
from nnssl.data.importing.pool_folder import _read_subjects
from nnssl.errors import NnsslError


def item(kind: str = NIFTI, name: str = "scan", dataset: str = "", subject: str = "", subject_name: str = "") -> Item:
    return Item(
        kind, (("/x",),), "x", "x", name, dataset=dataset, subject=subject, subject_name=subject_name
    )  # fmt: skip


def test_numbers_go_on_after_those_that_are_there() -> None:
    names = CaseNames("Pool", (), False, ["Pool_0002", "Pool_0007_frame003", "Other_0100"])
    assert [names.next(item()) for _ in range(2)] == ["Pool_0008", "Pool_0009"]


def test_names_of_dicom_files_are_never_kept() -> None:
    names = CaseNames("Pool", (), True)
    assert [names.next(item(name="t1")), names.next(item(DICOM, name="SMITH"))] == ["t1", "Pool_0001"]


def test_names_are_made_safe_and_unique() -> None:
    names = CaseNames("Pool", (), True, ["scan"])
    wanted = [names.next(item(name=n)) for n in ("scan", "scan", "a b/ü", "..", "scan_2")]
    assert wanted == ["scan_2", "scan_3", "a_b", "Pool", "scan_2_2"]


def test_merged_datasets_are_told_apart() -> None:
    datasets = ["/a/Dataset004_X", "/b/Dataset004_X", "/c/Task05_Y"]
    names = CaseNames("Pool", datasets, False)
    assert [names.next(item(NNUNET, "c", folder)) for folder in datasets] == ["004_c", "004-2_c", "005_c"]
    assert CaseNames("Pool", (), False).next(item(NNUNET, "c", datasets[0])) == "c"


def test_subjects() -> None:
    subjects = SubjectNames((), ["subject_0003"])
    assert subjects.name(item(subject="k"), "a", 1) == "subject_0004"
    assert subjects.name(item(subject="l"), "b", 1) == "subject_0005"
    assert subjects.name(item(subject="k"), "c", 1) == "subject_0004"
    assert subjects.name(item(), "d", 1) == ""
    assert subjects.name(item(), "e", 9) == "subject_0006"
    merged = SubjectNames(["/Dataset004_X", "/Dataset005_X"])
    known = item(NNUNET, dataset="/Dataset005_X", subject="k", subject_name="p1")
    assert merged.name(known, "a", 1) == "005_p1"


def test_frames_count_from_one() -> None:
    assert frame_name("a", 0, 1) == "a"
    assert frame_name("a", 2, 30) == "a_frame003"


def test_a_table_of_patients_is_a_table_of_subjects(tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text("case,patient\na,p1\nb,\n")
    assert _read_subjects(tmp_path) == {"a": "p1", "b": ""}
    (tmp_path / "subjects.csv").write_text("case,who\na,p1\n")
    with pytest.raises(NnsslError, match="column 'subject'"):
        _read_subjects(tmp_path)
