"""The demo's synthetic data: the same everywhere, pool and validation apart, and in nnU-Net's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnssl.cli import demo as command
from nnssl.demo import report, story, synthetic
from nnssl.errors import NnsslError
from nnssl.files import read_json


def test_a_case_follows_from_its_seed_role_and_number() -> None:
    first, again = synthetic.make_case(3, "train", 5), synthetic.make_case(3, "train", 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert first.spacing == again.spacing


@pytest.mark.parametrize("other", [(4, "train", 5), (3, "train", 6), (3, "val", 5), (3, "pool", 5)])
def test_every_seed_role_and_number_gives_another_case(other: tuple[int, str, int]) -> None:
    a, b = synthetic.make_case(3, "train", 5), synthetic.make_case(*other)
    assert a.image.shape != b.image.shape or not np.allclose(a.image, b.image)


@pytest.mark.parametrize("role", synthetic.ROLES)
def test_cases_are_usable(role: str) -> None:
    for number in range(4):
        case = synthetic.make_case(0, role, number)
        assert case.image.dtype == np.float32
        assert case.label.dtype == np.uint8
        assert case.image.shape == case.label.shape
        assert np.isfinite(case.image).all()
        assert set(np.unique(case.label)) == set(synthetic.LABELS.values())
        for value in report.FOREGROUND.values():
            assert 0.005 < (case.label == value).mean() < 0.15


def test_pool_and_target_come_from_one_distribution() -> None:
    def summary(role: str) -> np.ndarray:
        cases = [synthetic.make_case(0, role, n) for n in range(20)]
        z_scored = [(c.image - c.image.mean()) / c.image.std() for c in cases]
        return np.array([np.mean([np.quantile(z, q) for z in z_scored]) for q in (0.05, 0.5, 0.95)])

    assert np.allclose(summary("pool"), summary("val"), atol=0.2)


def test_intensity_alone_does_not_find_the_organs() -> None:
    """A gland is about as bright as the rest of the body: texture and place must tell."""
    distances = []
    for number in range(10):
        case = synthetic.make_case(0, "train", number)
        gland, body = case.image[case.label == 1], case.image[case.image > 0.5 * np.median(case.image)]
        distances.append(abs(gland.mean() - body.mean()) / body.std())
    assert np.mean(distances) < 1.0


def test_datasets_are_in_nnunets_layout(tmp_path: Path) -> None:
    names = synthetic.write_dataset(tmp_path / "target", 0, {"train": 1, "val": 1}, labelled=True)
    assert names == ["train_000", "val_000"]
    content = read_json(tmp_path / "target" / "dataset.json")
    assert content["labels"] == synthetic.LABELS
    assert content["numTraining"] == 2
    case = synthetic.make_case(0, "val", 0)
    image = sitk.ReadImage(str(tmp_path / "target" / "imagesTr" / "val_000_0000.nii.gz"))
    label = sitk.ReadImage(str(tmp_path / "target" / "labelsTr" / "val_000.nii.gz"))
    assert np.allclose(image.GetSpacing()[::-1], case.spacing, atol=1e-5)
    assert np.allclose(sitk.GetArrayFromImage(image), case.image)
    assert np.array_equal(sitk.GetArrayFromImage(label), case.label)


def test_a_pool_has_no_labels(tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path, 0, {"pool": 2}, labelled=False)
    assert read_json(tmp_path / "dataset.json")["labels"] == {"background": 0}
    assert not (tmp_path / "labelsTr").exists()
    assert len(list((tmp_path / "imagesTr").iterdir())) == 2


def test_dice_by_hand() -> None:
    reference = np.array([[[1, 1, 0, 0]]])
    prediction = np.array([[[1, 0, 1, 0]]])
    gland, kidney = report.organ_dice(prediction, reference)
    assert gland == 0.5
    assert np.isnan(kidney)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(NnsslError, match="not empty"):
            story.prepare_folder(tmp_path, overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_earlier_demo_is_replaced_only_on_request(tmp_path: Path) -> None:
    story.prepare_folder(tmp_path / "demo", overwrite=False)
    (tmp_path / "demo" / "nnUNet_raw").mkdir()
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    with pytest.raises(NnsslError, match="--overwrite"):
        story.prepare_folder(tmp_path / "demo", overwrite=False)
    story.prepare_folder(tmp_path / "demo", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["nnssl_demo.json", "notes.txt"]


def test_a_failing_command_stops_the_demo_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The plugin folder is asked for first; without plans the first nnssl command cannot work."""
    monkeypatch.setattr(synthetic, "write_dataset", lambda folder, *_, **__: folder.mkdir(parents=True) or [])
    monkeypatch.setattr("sys.argv", ["nnssl_demo", "-o", str(tmp_path / "demo"), "--quick", "-device", "cpu"])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    error = capsys.readouterr().err
    assert leaving.value.code == 2
    assert error.startswith("error: the demonstration stopped: `nnssl_plan_and_preprocess -d 902")
    assert "exit code 2" in error
    log = tmp_path / "demo" / "logs" / "02_plan_target.log"
    assert str(log) in error
    assert "dataset.json is missing" in log.read_text()


@pytest.mark.slow
def test_the_quick_demo_runs_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["nnssl_demo", "-o", str(tmp_path / "demo"), "--quick", "-device", "cpu"])
    with pytest.raises(SystemExit) as leaving:
        command.main()
    assert leaving.value.code == 0
    told = capsys.readouterr().out
    assert "[9/9]" in told
    assert "a demonstration and no evidence" in told
    assert told.rstrip().endswith("-tr nnUNetTrainer_SSLWarmup")
    for name in (report.CURVES, report.PREDICTION):
        assert (tmp_path / "demo" / name).stat().st_size > 10_000
    numbers = read_json(tmp_path / "demo" / report.NUMBERS)["models"]
    assert set(numbers) == {"from scratch", "pretrained"}
    for arm in numbers.values():
        assert len(arm["patch_dice_per_epoch"]) == story.QUICK.finetune_epochs
        assert len(arm["case_dice"]) == story.QUICK.val_cases
