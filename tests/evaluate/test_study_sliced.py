"""Cases narrowed to labelled slices: nnU-Net's loader then sees nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.evaluate.study.preparation import _labelled_slices
from nnssl.evaluate.study.sliced import SlicedCases
from nnssl.files import write_json
from tests.evaluate.test_study_cells import study


class Dataset:
    """What nnU-Net's dataset shows: slices are numbered by their voxels."""

    identifiers: tuple[str, ...] = ("a", "b", "c")
    source = "somewhere"

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        data = np.broadcast_to(np.arange(8.0)[None, :, None, None], (2, 8, 4, 4))
        seg = np.zeros((1, 8, 4, 4), np.int8)
        seg[0, 3, 1, 1], seg[0, 5, 2, 2] = 1, 2
        locations = {1: np.array([[0, 3, 1, 1]]), 2: np.array([[0, 5, 2, 2]]), 3: []}
        return data, seg, None, {"class_locations": locations, "spacing": 1}


def test_only_chosen_slices_and_labels_follow() -> None:
    cases = SlicedCases(Dataset(), {"a": [1, 5, 7], "c": [3]})
    assert cases.identifiers == ["a", "c"]
    data, seg, previous, properties = cases.load_case("a")
    assert data.shape == (2, 3, 4, 4)
    assert data[0, :, 0, 0].tolist() == [1, 5, 7]
    assert previous is None
    assert properties["spacing"] == 1
    assert len(properties["class_locations"][1]) == 0  # its slice was not chosen
    z, y, x = properties["class_locations"][2][0][1:]
    assert seg[0, z, y, x] == 2
    assert cases.source == "somewhere"  # all else is nnU-Net's


def test_the_dataset_itself_is_left_alone() -> None:
    dataset = Dataset()
    SlicedCases(dataset, {"a": [5]}).load_case("a")
    assert dataset.load_case("a")[3]["class_locations"][2][0, 1] == 5


@pytest.mark.parametrize("labels,expected", [({"ignore": 2}, [3]), ({"other": 2}, [3, 5])])
def test_a_slice_that_is_all_ignored_is_not_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, int], expected: list[int]
) -> None:
    from nnunetv2.training.dataloading import nnunet_dataset

    from nnssl.data import folders

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setattr(nnunet_dataset, "infer_dataset_class", lambda _: lambda *_: Dataset())
    plans = {"configurations": {"2d": {"patch_size": [4, 4], "data_identifier": "x"}}}
    monkeypatch.setattr(folders, "read_plans", lambda *_: plans)
    described = {
        "channel_names": {"0": "MRI"},
        "file_ending": ".nii.gz",
        "labels": {"background": 0, "one": 1, **labels},
    }
    write_json({**described, "numTraining": 1}, tmp_path / "Dataset001_X" / "dataset.json")
    assert _labelled_slices(study(unit="slice", training=["a"])) == {"a": expected}
