"""Names of cases that the store, nnU-Net or file patterns could take for something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nnssl.planners import extract_fingerprint, fingerprint
from nnssl.planners.preprocess import _remove_others

from nnssl.data.folders import raw_cases
from nnssl.data.importing.items import NIFTI, NNUNET, Item
from nnssl.data.importing.naming import CaseNames
from nnssl.data.pool import PoolCase
from nnssl.data.store import SUFFIXES
from nnssl.errors import NnsslError
from tests.conftest import blobs, run_command, write_image


def raw_dataset(root: Path, *names: str) -> Path:
    folder = root / "raw" / "Dataset902_Pool"
    for name in names:
        write_image(blobs(np.random.default_rng(0), (18, 20, 22))[0], folder / "imagesTr" / f"{name}_0000.nii.gz")
    (folder / "dataset.json").write_text('{"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}')
    return folder


def test_names_that_end_like_labels_are_left_out_with_a_reason(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = raw_dataset(nnunet_folders, "foo", "foo_seg", "bar")
    content = json.loads((folder / "dataset.json").read_text()) | {"labels": {"background": 0}}
    assert [case.name for case in raw_cases(folder, content)] == ["bar", "foo"]

    def here(work, items, locks, processes, description):
        return {i: work(item) for i, item in enumerate(items)}, {}

    monkeypatch.setattr(fingerprint, "run_claimed_cases", here)
    found = extract_fingerprint("Dataset902_Pool", 1)["nnssl"]
    assert list(found["cases"]) == ["bar", "foo"]
    assert list(found["skipped"]) == ["foo_seg"]
    assert "foo_seg_image" in found["skipped"]["foo_seg"]
    (folder / "imagesTr" / "foo_seg_0000.nii.gz").rename(folder / "imagesTr" / "foo_seg_image_0000.nii.gz")
    assert list(extract_fingerprint("Dataset902_Pool", 1)["nnssl"]["cases"]) == ["bar", "foo", "foo_seg_image"]


def test_only_such_names_is_one_clear_line(nnunet_folders: Path) -> None:
    raw_dataset(nnunet_folders, "foo_seg")
    with pytest.raises(NnsslError, match=r"foo_seg: .* rename"):
        extract_fingerprint("Dataset902_Pool", 1)


def test_what_is_removed_is_told_by_whole_file_names(tmp_path: Path) -> None:
    """An image `p3_seg` of older versions beside no `p3`; a case `p` beside `p_seg.b2nd`, its own label."""
    folder = tmp_path / "plans_3d"
    folder.mkdir()
    for name in ("p", "p2", "gone"):
        for suffix in SUFFIXES:
            (folder / (name + suffix)).touch()
    for suffix in SUFFIXES:
        (folder / f"p3_seg{suffix}").touch()
    cases = [PoolCase(name, "plans_3d", (1, 1, 1), True) for name in ("p", "p2", "p3_seg")]
    _remove_others(tmp_path, "plans_3d", cases)
    there = {path.name for path in folder.iterdir()}
    assert there == {f"{name}{suffix}" for name in ("p", "p2", "p3_seg") for suffix in SUFFIXES}
    _remove_others(tmp_path, "plans_3d", cases[:2])
    assert {path.name for path in folder.iterdir()} == {
        f"{name}{suffix}" for name in ("p", "p2") for suffix in SUFFIXES
    }


@pytest.mark.parametrize("dataset", ["", "/a/Dataset004_X"])
def test_imported_names_never_end_like_labels(dataset: str) -> None:
    names = CaseNames("Pool_seg", (), True, ["b_seg_image"])
    item = NNUNET if dataset else NIFTI
    wanted = [names.next(Item(item, (("/x",),), "x", "x", n, dataset=dataset)) for n in ("a_seg", "b_seg", "_", "c")]
    assert wanted == ["a_seg_image", "b_seg_image_2", "Pool_seg_image", "c"]


@pytest.mark.slow
def test_brackets_and_dots_in_names(nnunet_folders: Path) -> None:
    names = ["scan", "scan.1", "t[12]", "what?"]
    raw_dataset(nnunet_folders, *names)
    for _ in range(2):
        assert run_command(
            "plan_and_preprocess", "-d", "902", "--size", "S", "-np", "1", "-c", "3d_fullres", "--clean"
        ) == 0  # fmt: skip
    base = nnunet_folders / "preprocessed" / "Dataset902_Pool"
    index = json.loads((base / "nnsslPlans_3d_fullres_pool.json").read_text())
    assert [case["name"] for case in index["cases"]] == sorted(names)
    assert not list((base / "nnsslPlans_3d_fullres_records" / "claims").iterdir())
