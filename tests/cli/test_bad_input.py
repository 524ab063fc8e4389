"""Bad input gets one clear line that says what to do, exit code 2, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import make_raw, run_command

PRETRAIN = ("pretrain", "902", "3d_fullres", "-m", "masked_region", "-device", "cpu")


def error_line(capsys: pytest.CaptureFixture) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith("error: ") or ": error: " in lines[-1], lines
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pretrain", "902", "3d_fullres", "-m", "masked_regions", "-device", "cpu"), "Did you mean 'masked_region'"),
        (("pretrain", "902", "3d_fulres", "-m", "masked_region", "-device", "cpu"), "Did you mean '3d_fullres'"),
        (("pretrain", "77", "3d_fullres", "-m", "masked_region", "-device", "cpu"), "Datasets there: Dataset901"),
        (("pretrain", "abc", "3d_fullres", "-m", "masked_region", "-device", "cpu"), "neither a dataset number"),
        ((*PRETRAIN, "-p", "otherPlans"), "there: nnsslPlans"),
        ((*PRETRAIN, "--set", "mask_ratio=2"), "less than 1"),
        ((*PRETRAIN, "--set", "blok=2"), "Did you mean 'block'"),
        ((*PRETRAIN, "--set", "block=7"), "must divide the patch size"),
        ((*PRETRAIN, "--epochs", "0"), "at least 1"),
        ((*PRETRAIN, "--lr", "nan"), "above 0"),
        ((*PRETRAIN, "-f", "x"), "give 'all' or a fold number"),
        ((*PRETRAIN, "-f", "9"), "folds 0 to 4"),
        ((*PRETRAIN, "--name", "a b/c"), "use letters"),
        ((*PRETRAIN, "--c", "--overwrite"), "choose one"),
        ((*PRETRAIN, "--config", "none.yaml"), "does not exist"),
        (("export", "none.pth", "-d", "901", "-c", "3d_fullres", "-o", "x.pth"), "does not exist"),
        (("inspect", "none.pth"), "does not exist"),
        (("plan_and_preprocess", "-d", "44"), "not found in nnUNet_raw"),
        (("plan_and_preprocess", "-d", "902", "--like", "55"), "not found in nnUNet_preprocessed"),
        (("plan_and_preprocess", "-d", "902", "--like", "901", "--like-plans", "no"), "there: nnsslPlans"),
        (("plan_and_preprocess", "-d", "902", "-pl", "nnsslPlaner"), "Did you mean 'nnsslPlanner'"),
        (("plan_and_preprocess", "-d", "902", "-np", "0"), "at least 1"),
    ],
)
def test_wrong_arguments(
    pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], said: str
) -> None:
    assert run_command(*arguments) == 2
    assert said in error_line(capsys)
    assert not list((tmp_path / "results").rglob("*.pth"))


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_missing_variables(
    pretraining: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, variable: str
) -> None:
    monkeypatch.delenv(variable)
    assert run_command("plan_and_preprocess", "-d", "902") == 2
    assert f"{variable} is not set" in error_line(capsys)


def test_missing_results_variable(
    pretraining: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("nnUNet_results")
    assert run_command(*PRETRAIN) == 2
    assert "nnUNet_results is not set" in error_line(capsys)


def test_folder_that_does_not_exist(
    pretraining: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nowhere"))
    assert run_command("plan_and_preprocess", "-d", "902") == 2
    assert "is not a folder" in error_line(capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"file_ending": ".nii.gz"}', "no 'channel_names'"),
        ('{"channel_names": {"0": "MRI"}}', "no 'file_ending'"),
        ('{"channel_names": {"0": 0}, "file_ending": ".nii.gz"}', "0 is no name of a channel"),
        ('{"channel_names": {"0": "MRI"}, "file_ending": ".xyz"}', "no images like"),
    ],
)
def test_bad_dataset_json(nnunet_folders: Path, capsys: pytest.CaptureFixture, content: str, said: str) -> None:
    folder = make_raw(nnunet_folders / "raw", "Dataset905_X", 1, 0)
    (folder / "dataset.json").write_text(content)
    assert run_command("plan_and_preprocess", "-d", "905") == 2
    assert said in error_line(capsys)
    (folder / "dataset.json").unlink()
    assert run_command("plan_and_preprocess", "-d", "905") == 2
    assert "dataset.json is missing" in error_line(capsys)
    assert not list((nnunet_folders / "preprocessed").rglob("*.json"))


def test_debug_shows_the_traceback(pretraining: Path) -> None:
    from nnssl.errors import NnsslError

    with pytest.raises(NnsslError):
        run_command("pretrain", "77", "3d_fullres", "-m", "masked_region", "--debug")


def test_every_command_has_help(capsys: pytest.CaptureFixture) -> None:
    for command in ("plan_and_preprocess", "pretrain", "export", "inspect", "plugin_path", "demo"):
        assert run_command(command, "--help") == 0
        assert f"nnssl_{command}" in capsys.readouterr().out
