"""What is collected, and what is said where something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnssl.errors import NnsslError
from nnssl.inspect import cases as module
from nnssl.inspect.cases import HEADERS, MEASURED, UNNAMED
from nnssl.inspect.facts import collect, is_dataset
from nnssl.inspect.summary import summary
from nnssl.inspect.words import dataset_number
from tests.conftest import make_raw
from tests.inspect.conftest import EVIL, NAME, write_raw

Make = Callable[..., Path]


def test_fingerprint_and_plans(hand_made: Make) -> None:
    hand_made()
    facts = collect("711")
    assert facts.source == MEASURED
    assert [c.name for c in facts.cases] == ["case_000", "case_001", "case_002"]
    assert facts.cases[2].shape == (12, 20, 24)
    assert facts.cases[2].spacing == (4.0, 1.0, 2.0)
    assert facts.skipped == {EVIL: f"broken {EVIL}"}
    assert facts.raw_bytes == sum(Path(f).stat().st_size for c in facts.raw.values() for f in c.images) > 0
    plan = facts.plan
    assert plan is not None
    assert plan.like == "Dataset027_ACDC, nnsslPlans"
    assert plan.clip == {0: (-100.0, 100.0)}
    configuration = plan.configurations[0]
    assert configuration.coverage == pytest.approx(0.5 * 1.0 * 0.8)
    assert configuration.patch_mm == (32.0, 24.0, 16.0)
    assert [s.size for s in configuration.stages] == [(8, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert "no preprocessed cases" in configuration.problem


def test_summary_names_the_outlier_the_skipped_case_and_the_plan(hand_made: Make) -> None:
    hand_made()
    text = "\n".join(summary(collect("711")))
    assert "spacing along X is 2 mm, usual is 1 mm" in text
    assert f"{EVIL}: broken" in text
    assert "patch 8 × 16 × 16 voxels = 32 × 24 × 16 mm, 40 % of the median case" in text
    assert "Z 4, Y 1, X 1 (1 to 2) mm" in text
    assert "int16 (2), float32 (1)" in text


def test_headers_are_not_read_when_the_fingerprint_knows(hand_made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_made()

    def refuse(*_: Any) -> Any:
        raise AssertionError("a header was read")

    monkeypatch.setattr(module, "read_headers", refuse)
    assert len(collect("711").cases) == 3


def test_only_raw_files(nnunet_folders: Path) -> None:
    folder = write_raw(nnunet_folders / "raw", 3)
    (folder / "imagesTr" / "empty_0000.nii.gz").write_bytes(b"")
    (folder / "imagesTr" / "text_0000.nii.gz").write_bytes(b"no image at all")
    (folder / "imagesTr" / "dangling_0000.nii.gz").symlink_to("/nowhere")
    facts = collect(NAME)
    assert facts.source == HEADERS
    assert [(c.shape, c.spacing, c.dtype) for c in facts.cases][1] == ((11, 20, 24), (4.0, 1.0, 1.0), "int16")
    assert set(facts.skipped) == {"empty", "text", "dangling"}
    assert facts.skipped["empty"] == "the file is empty"
    assert any("nnssl_plan_and_preprocess -d 711" in note for note in facts.notes)
    assert facts.plan is None


def test_without_preprocessed_folder(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raw(nnunet_folders / "raw", 1)
    monkeypatch.delenv("nnUNet_preprocessed")
    assert collect("711").source == HEADERS


def test_without_raw_folder(hand_made: Make, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hand_made()
    (folder / "dataset.json").write_bytes((nnunet_folders / "raw" / NAME / "dataset.json").read_bytes())
    monkeypatch.delenv("nnUNet_raw")
    facts = collect("711")
    assert len(facts.cases) == 3
    assert any("no thumbnails" in note for note in facts.notes)


def test_older_fingerprint(hand_made: Make) -> None:
    def old(content: dict[str, Any]) -> None:
        for key in ("measured", "outliers", "ct_histogram"):
            del content["nnssl"][key]

    hand_made(edit=old)
    facts = collect("711")
    assert facts.source == UNNAMED
    assert facts.cases[0].name == "case_000"
    assert facts.cases[0].shape == (9, 18, 22)
    assert any("--clean" in note for note in facts.notes)
    assert "voxels after cropping" in "\n".join(summary(facts))


def test_fingerprint_of_nnunet(nnunet_folders: Path) -> None:
    """No block of ours; its cases are the labelled ones, by name."""
    make_raw(nnunet_folders / "raw", NAME, 3, 2)
    folder = nnunet_folders / "preprocessed" / NAME
    folder.mkdir()
    content = {"spacings": [[1, 1, 1], [2, 1, 1]], "shapes_after_crop": [[5, 6, 7], [8, 9, 9]]}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(content))
    facts = collect("711")
    assert {c.name: c.spacing for c in facts.cases} == {"case_000": (1, 1, 1), "case_001": (2, 1, 1)}
    assert facts.labelled == 2
    assert summary(facts)


def test_changed_raw_folder_is_noted(hand_made: Make, nnunet_folders: Path) -> None:
    hand_made()
    images = nnunet_folders / "raw" / NAME / "imagesTr"
    (images / "case_000_0000.nii.gz").rename(images / "other_0000.nii.gz")
    notes = " ".join(collect("711").notes)
    assert "1 raw case(s) are not in the fingerprint (other)" in notes
    assert "no raw images any more" in notes


@pytest.mark.parametrize("broken", ["", "{", "[1, 2]", '{"configurations": {"2d": {"patch_size": [3]}}}'])
def test_damaged_files_become_notes(hand_made: Make, broken: str) -> None:
    folder = hand_made()
    (folder / "nnsslPlans.json").write_text(broken)
    assert any("plans nnsslPlans" in note for note in collect("711").notes)
    (folder / "dataset_fingerprint.json").write_text(broken if not broken.startswith('{"') else "null")
    assert any("dataset_fingerprint.json" in note for note in collect("711").notes)


@pytest.mark.parametrize(
    "damage",
    [
        {"measured": {"case_000": 3}},
        {"measured": ["case_000"]},
        {"measured": {"case_000": {"spacing": ["a"]}}},
        {"measured": {"case_000": {"intensity": [{"median": "x"}]}}},
        {"outliers": ["case_000"]},
        {"skipped": 3},
    ],
)
def test_a_fingerprint_that_makes_no_sense_is_a_note(hand_made: Make, damage: dict[str, Any]) -> None:
    hand_made(edit=lambda content: content["nnssl"].update(damage))
    facts = collect("711")
    assert facts.source == HEADERS
    assert len(facts.cases) == 3
    assert any("cannot be understood" in note for note in facts.notes)


def test_a_damaged_index_of_cases_is_a_problem_of_its_configuration(hand_made: Make) -> None:
    folder = hand_made()
    (folder / "nnsslPlans_3d_fullres_pool.json").write_text("{")
    (folder / "nnsslPlans_report.json").write_text("{")
    facts = collect("711")
    assert any("nnsslPlans_report.json cannot be read" in note for note in facts.notes)
    plan = facts.plan
    assert plan is not None
    assert "damaged" in plan.configurations[0].problem


def test_other_plans_are_taken_and_named(hand_made: Make) -> None:
    folder = hand_made()
    (folder / "nnsslPlans.json").rename(folder / "nnUNetPlans.json")
    facts = collect("711")
    assert facts.plan is not None
    assert facts.plan.name == "nnUNetPlans"
    with pytest.raises(NnsslError, match="there: nnUNetPlans"):
        collect("711", "nnsslPlans")


def test_import_report(hand_made: Make, nnunet_folders: Path) -> None:
    hand_made()
    report = {
        "nnssl_import": 1,
        "cases": {"a": {"kind": "DICOM", "notes": ["gantry tilt of 9 degrees"]}, "b": {"kind": "NIfTI", "notes": []}},
        "duplicates": [{"what": "c", "of": "a"}],
        "left_out": [{"what": "d", "kind": "DICOM", "reason": "a scout"}],
        "other_files": {".txt": 4},
        "notes": [],
    }
    path = nnunet_folders / "raw" / NAME / "import_report.json"
    path.write_text(json.dumps(report))
    text = "\n".join(summary(collect("711")))
    for words in ("DICOM (1)", "1 left out", "1: a scout (1)", ".txt (4)", "gantry tilt of 9 degrees (1)"):
        assert words in text
    for other in ('{"nnssl_import": 2}', '{"nnssl_import": 1, "cases": [1]}'):
        path.write_text(other)
        assert "does not know" in "\n".join(summary(collect("711")))


def test_file_or_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_dataset("27")
    assert is_dataset("Dataset027_ACDC")
    assert not is_dataset("encoder.pth")
    Path("27").write_bytes(b"weights")
    assert not is_dataset("27")
    assert dataset_number("Dataset027_ACDC") == "27"
    assert dataset_number("Dataset1000") == "1000"
