"""Encoders at chosen steps of a run: the pretraining-length ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnssl.transfer import read_encoder
from nnssl.transfer.verify import verify_file
from tests.conftest import run_command, run_folder

QUICK = ("-device", "cpu", "--iterations", "3", "--set", "val_iterations=1", "--batch-size", "2")
RUN = ("pretrain", "902", "3d_fullres", "-m", "byol")


@pytest.mark.slow
def test_snapshots_are_the_run_at_that_step(pretraining: Path, tmp_path: Path) -> None:
    assert run_command(*RUN, *QUICK, "--epochs", "2", "--snapshots", "0", "2", "3", "6") == 0
    folder = run_folder(tmp_path / "results", "nnsslTrainer_BYOL")
    files = sorted((folder / "snapshots").iterdir())
    assert [f.name for f in files] == [f"encoder_step_{n:06d}.pth" for n in (0, 2, 3, 6)]
    found = {read_encoder(f).provenance["steps"]: read_encoder(f) for f in files}
    assert list(found) == [0, 2, 3, 6]
    last = read_encoder(folder / "encoder.pth")
    assert all(torch.equal(v, found[6].network_weights[k]) for k, v in last.network_weights.items())
    key = "encoder.stem.convs.0.conv.weight"
    assert not torch.equal(found[0].network_weights[key], found[2].network_weights[key])
    for file in files:
        verify_file(file)

    # the training does not know of them
    assert run_command(*RUN, *QUICK, "--epochs", "2", "--name", "plain") == 0
    plain = read_encoder(run_folder(tmp_path / "results", "nnsslTrainer_BYOL_plain") / "encoder.pth")
    assert all(torch.equal(v, last.network_weights[k]) for k, v in plain.network_weights.items())
    assert not (run_folder(tmp_path / "results", "nnsslTrainer_BYOL_plain") / "snapshots").exists()


def test_a_step_that_the_run_does_not_have(pretraining: Path, capfd: pytest.CaptureFixture) -> None:
    assert run_command(*RUN, *QUICK, "--epochs", "2", "--snapshots", "3", "7") == 2
    assert "snapshot at step 7: the run has steps 0 to 6" in capfd.readouterr().err
