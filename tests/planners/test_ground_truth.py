"""`gt_segmentations` and the cases that are drawn from follow what is preprocessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nnssl.planners.ground_truth import update_ground_truth
from nnssl.trainers.finetune_plan import training_cases

from nnssl.errors import NnsslError

WHERE = ("Dataset901_Target", "nnsslPlans", "3d_fullres")


@pytest.fixture
def target(planned: Path, nnunet_folders: Path) -> Path:
    for kind in ("raw", "preprocessed"):
        shutil.copytree(planned / kind / WHERE[0], nnunet_folders / kind / WHERE[0])
    return nnunet_folders / "preprocessed" / WHERE[0]


def truths(target: Path) -> list[str]:
    return sorted(p.name.removesuffix(".nii.gz") for p in (target / "gt_segmentations").iterdir())


def test_labels_of_cases_that_nothing_has_stored_go(target: Path) -> None:
    cases = [f"case_{i:03d}" for i in range(6)]
    assert truths(target) == cases
    stale = target / "gt_segmentations" / "gone.nii.gz"
    shutil.copyfile(target / "gt_segmentations" / "case_000.nii.gz", stale)
    (target / "gt_segmentations" / "case_001.nii.gz").unlink()
    for folder in target.iterdir():
        for path in folder.glob("case_005*b2nd") if folder.is_dir() else ():
            path.unlink()  # left out, or failed
    assert update_ground_truth(WHERE[0]) == 5
    assert truths(target) == cases[:5]
    nnunets = target / "nnUNetPlans_3d_fullres"  # another's data, whose validation needs the label
    nnunets.mkdir()
    (nnunets / "gone.b2nd").touch()
    shutil.copyfile(target / "gt_segmentations" / "case_000.nii.gz", stale)
    update_ground_truth(WHERE[0])
    assert truths(target) == [*cases[:5], "gone"]


def test_the_split_is_nnunets_whatever_lies_among_the_ground_truths(target: Path) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    shutil.copyfile(target / "gt_segmentations" / "case_000.nii.gz", target / "gt_segmentations" / "a_gone.nii.gz")
    names = sorted(nnUNetDatasetBlosc2.get_identifiers(str(target / "nnsslPlans_3d_fullres")))
    assert training_cases(*WHERE, "all") == names
    theirs = generate_crossval_split(names, seed=12345, n_splits=5)
    assert [training_cases(*WHERE, fold) for fold in range(5)] == [sorted(split["train"]) for split in theirs]


def test_cases_without_labels_are_not_drawn_from(target: Path) -> None:
    index = target / "nnsslPlans_3d_fullres_pool.json"
    content = json.loads(index.read_text())
    for case in content["cases"][:4]:
        case["labelled"] = False
    index.write_text(json.dumps(content))
    assert training_cases(*WHERE, "all") == ["case_004", "case_005"]
    for case in content["cases"]:
        case["labelled"] = False
    index.write_text(json.dumps(content))
    with pytest.raises(NnsslError, match="no labelled cases"):
        training_cases(*WHERE, "all")
