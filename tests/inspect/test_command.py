"""The command on a really planned and preprocessed dataset, and on everything a user may type."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnssl.inspect.crops import draw_views
from tests.conftest import run_command
from tests.inspect.conftest import write_raw


def test_planned_and_preprocessed(pretraining: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert run_command("inspect", "902", "-o", str(target), "-np", "1", "--cases", "3") == 0
    printed = capsys.readouterr().out
    assert "5 usable, 1 skipped" in printed
    assert "like Dataset901_Target" in printed
    assert "5 cases preprocessed" in printed
    html = target.read_text(encoding="utf-8")
    assert "data:image/png;base64," in html
    assert "3d_fullres, method masked_region" in html
    assert "broken" in html


def test_default_page_lies_in_the_preprocessed_folder(pretraining: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", "901", "-np", "1", "--cases", "1", "-c", "3d_fullres", "-m", "flip") == 0
    page = pretraining / "preprocessed" / "Dataset901_Target" / "inspect.html"
    assert f"wrote {page}" in capsys.readouterr().out
    assert "method flip" in page.read_text(encoding="utf-8")
    page.unlink()


@pytest.mark.parametrize("method", ["spark+simclr", "next_slice", "volume_fusion"])
def test_views_of_methods_of_every_kind(
    pretraining: Path, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a results folder too, and none is left behind."""
    monkeypatch.delenv("nnUNet_results")
    (tmp_path / "results").rmdir()
    configuration = "2d" if method == "next_slice" else "3d_fullres"
    png = draw_views("Dataset902_Pool", configuration, method, "nnsslPlans")
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000
    assert not (tmp_path / "results").exists()


def test_the_page_stands_when_the_views_fail(
    pretraining: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A foreign method or network may raise anything."""
    from nnssl.methods.masked_region import MaskedRegion

    def broken(*_: object) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(MaskedRegion, "views", broken)
    target = tmp_path / "page.html"
    assert run_command("inspect", "902", "-o", str(target), "-np", "1", "--cases", "1") == 0
    assert "RuntimeError: not enough memory" in target.read_text(encoding="utf-8")


def test_raw_only_writes_into_the_current_folder(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(nnunet_folders / "raw", 2)
    monkeypatch.chdir(tmp_path)
    assert run_command("inspect", "711", "-np", "1") == 0
    assert "not preprocessed yet" in (tmp_path / "inspect.html").read_text(encoding="utf-8")
    assert run_command("inspect", "711", "--no-html") == 0
    printed = capsys.readouterr().out
    assert printed.count("wrote") == 1
    assert printed.count("Dataset711_Hand") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["999"], "dataset 999 not found"),
        (["Dataset902"], "Did you mean"),
        (["902", "-p", "nnsslPlan"], "there: nnsslPlans"),
        (["902", "-c", "3d_fullress"], "Did you mean '3d_fullres'?"),
        (["902", "-m", "spork"], "Did you mean 'spark'?"),
        (["902", "--keys"], "is a dataset"),
        (["nowhere/encoder.pth"], "does not exist"),
        (["902", "-o", "{file}/page.html"], "cannot be written"),
    ],
)
def test_wrong_input_is_one_line(
    pretraining: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    assert run_command("inspect", *(a.format(file=blocker) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_stale_cases_are_said_on_the_page(
    nnunet_folders: Path, planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raw files that changed after preprocessing: the page still stands, and says why there are no crops."""
    import json
    import shutil

    shutil.copytree(planned / "raw" / "Dataset902_Pool", nnunet_folders / "raw" / "Dataset902_Pool")
    folder = nnunet_folders / "preprocessed" / "Dataset902_Pool"
    shutil.copytree(planned / "preprocessed" / "Dataset902_Pool", folder)
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    fingerprint["nnssl"]["source"] = "something else"
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    assert run_command("inspect", "902", "-np", "1", "--cases", "1") == 0
    assert "were made from other raw data" in capsys.readouterr().out
    assert "were made from other raw data" in (folder / "inspect.html").read_text(encoding="utf-8")
