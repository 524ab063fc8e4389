"""Chained pretraining: a run that starts from another run's encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnssl.transfer import EncoderFile, read_encoder, torch_files
from tests.conftest import run_command, run_folder

QUICK = ("-device", "cpu", "--iterations", "2", "--epochs", "1", "--batch-size", "2", "--set", "val_iterations=1")


@pytest.fixture
def results(pretraining: Path, tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def first(results: Path) -> Path:
    assert run_command("pretrain", "902", "3d_fullres", "-m", "masked_region", *QUICK) == 0
    return run_folder(results) / "encoder.pth"


def encoder_only(content: EncoderFile) -> dict[str, torch.Tensor]:
    return {k: v for k, v in content.network_weights.items() if k.startswith("encoder.")}


def test_a_run_goes_on_from_another_ones_encoder(first: Path, results: Path, capsys: pytest.CaptureFixture) -> None:
    """With a learning rate of next to nothing the result is what the run started from, teacher included."""
    still = ("--lr", "1e-12", "--set", "weight_decay=0", "--init", str(first))
    assert run_command("pretrain", "902", "3d_fullres", "-m", "byol", *QUICK, *still) == 0
    assert "encoder covered: 100.0 %" in capsys.readouterr().out
    second = read_encoder(run_folder(results, "nnsslTrainer_BYOL") / "encoder.pth")
    parent = read_encoder(first)
    a, b = encoder_only(second), encoder_only(parent)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    record = second.provenance["init"]
    assert record["provenance"]["method"] == "masked_region"
    assert record["provenance"]["steps"] == 2
    assert len(record["sha256"]) == 64
    assert set(parent.citations) < set(second.citations), "every stage is cited"
    assert second.provenance["config"]["init"] == "encoder.pth"
    raw = (run_folder(results, "nnsslTrainer_BYOL") / "encoder.pth").read_bytes()
    assert str(results).encode() not in raw, "paths must not leave"
    assert run_command("inspect", str(run_folder(results, "nnsslTrainer_BYOL") / "encoder.pth")) == 0
    assert "started from   masked_region, 2 steps on Dataset902_Pool" in capsys.readouterr().out
    assert set(parent.provenance["case_digests"]) <= set(second.provenance["case_digests"])


def test_all_ancestors_cases_count_as_seen(first: Path, results: Path) -> None:
    content = torch_files.load(first)
    content["provenance"]["case_digests"] = ["another pool's case"]
    content["provenance"]["subject_scan_digests"] = ["another scan of its patient"]
    other = results / "other.pth"
    torch.save(content, other)
    assert run_command("pretrain", "902", "3d_fullres", "-m", "denoising", *QUICK, "--init", str(other)) == 0
    provenance = read_encoder(run_folder(results, "nnsslTrainer_Denoising") / "encoder.pth").provenance
    assert "another pool's case" in provenance["case_digests"] and len(provenance["case_digests"]) == 6
    assert provenance["subject_scan_digests"] == ["another scan of its patient"]


def test_the_decoder_goes_along_where_both_train_it(first: Path, results: Path) -> None:
    still = ("--lr", "1e-12", "--set", "weight_decay=0", "--init", str(first))
    assert run_command("pretrain", "902", "3d_fullres", "-m", "denoising", *QUICK, *still) == 0
    a = read_encoder(run_folder(results, "nnsslTrainer_Denoising") / "encoder.pth").network_weights
    b = read_encoder(first).network_weights
    decoder = [k for k in b if k.startswith("decoder.")]
    assert decoder and all(torch.allclose(a[k], b[k], atol=1e-6) for k in decoder)


def test_a_continued_run_keeps_its_ancestor_without_the_file(first: Path, results: Path) -> None:
    start = ("902", "3d_fullres", "-m", "denoising", *QUICK, "--init", str(first))
    assert run_command("pretrain", *start) == 0
    first.unlink()
    assert run_command("pretrain", *start, "--c") == 0
    folder = run_folder(results, "nnsslTrainer_Denoising")
    assert read_encoder(folder / "encoder.pth").provenance["init"]["provenance"]["method"] == "masked_region"


def test_a_file_that_does_not_fit_is_refused(first: Path, results: Path, capsys: pytest.CaptureFixture) -> None:
    start = ("pretrain", "902", "3d_fullres", "-m", "denoising", *QUICK)
    other = torch.load(first, weights_only=True)
    for name in ("encoder.stages.1.blocks.0.conv1.conv", "encoder.stages.1.blocks.0.conv1.all_modules.0"):
        weight = other["network_weights"][f"{name}.weight"]
        other["network_weights"][f"{name}.weight"] = torch.cat([weight, weight])  # twice as wide
    torch.save(other, first.with_name("wide.pth"))
    assert run_command(*start, "--init", str(first.with_name("wide.pth"))) == 2
    assert "another width" in capsys.readouterr().err
    assert run_command(*start, "--init", str(first.with_name("nowhere.pth"))) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not list(results.glob("*/nnsslTrainer_Denoising*")), "nothing is left behind"
