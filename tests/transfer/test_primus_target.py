"""Weights of a Primus for nnU-Net's own Primus trainers, under the unmodified commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.transfer.primus_init import build_primus
from tests.conftest import run_command
from tests.trainers.test_finetuning import PREDICT, nnunet

SHORT = """
import sys
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer as Primus
before = Primus.initialize
def short(self):
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 1, 1
    before(self)
Primus.initialize = short
run_training.run_training_entry()
"""
"""nnU-Net's command with its own trainer, but for one step."""


@pytest.fixture
def dataset(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned target with patches that can be cut into tokens; small, because a Primus S has 19 million weights."""
    folder = tmp_path / "preprocessed" / "Dataset901_Target"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    plans = json.loads((folder / "nnsslPlans.json").read_text())
    plans["configurations"]["3d_fullres"] |= {"patch_size": [8, 16, 16], "batch_size": 2}
    (folder / "nnsslPlans.json").write_text(json.dumps(plans))
    return folder


def saved(tmp_path: Path, dataset: Path, patch: list[int]) -> tuple[Path, torch.nn.Module]:
    """A plain state dict of a Primus S of a patch size."""
    plans = json.loads((dataset / "nnsslPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = patch
    torch.manual_seed(3)
    network = build_primus("primus_s", plans, "3d_fullres", json.loads((dataset / "dataset.json").read_text()))
    with torch.no_grad():
        network.eva.pos_embed.normal_()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "primus.pth")
    return tmp_path / "primus.pth", network


def export(file: Path, tmp_path: Path, *more: str) -> int:
    where = ("-d", "901", "-c", "3d_fullres", "-o", str(tmp_path / "init.pth"), "--network", "primus_s")
    return run_command("export", str(file), *where, *more)


@pytest.mark.slow
def test_stock_trainer_trains_and_predicts_from_the_file(
    dataset: Path, tmp_path: Path, planned: Path, capfd: pytest.CaptureFixture
) -> None:
    file, source = saved(tmp_path, dataset, [16, 16, 16])  # a cube: a plain state dict says no more
    assert export(file, tmp_path) == 0
    assert "positions 2x2x2 -> 1x2x2" in capfd.readouterr().out
    state = torch.load(tmp_path / "init.pth", weights_only=True)["network_weights"]
    assert torch.equal(state["eva.blocks.3.mlp.fc2.weight"], source.state_dict()["eva.blocks.3.mlp.fc2.weight"])
    arguments = ("901", "3d_fullres", "0", "-p", "nnsslPlans", "-tr", "nnUNet_Primus_S_Trainer", "-device", "cpu")
    done = nnunet(SHORT, *arguments, "-pretrained_weights", str(tmp_path / "init.pth"), nnssl=False)
    assert done.returncode == 0, done.stdout + done.stderr
    images = tmp_path / "in"
    images.mkdir()
    first = sorted((planned / "raw" / "Dataset901_Target" / "imagesTr").iterdir())[0]
    shutil.copyfile(first, images / first.name)
    more = (
        "-i",
        str(images),
        "-o",
        str(tmp_path / "out"),
        "-d",
        "901",
        "-c",
        "3d_fullres",
        "-f",
        "0",
        "-device",
        "cpu",
    )
    done = nnunet(PREDICT, *more, "-p", "nnsslPlans", "-tr", "nnUNet_Primus_S_Trainer", "--disable_tta", nnssl=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([p for p in (tmp_path / "out").iterdir() if p.name.endswith(".nii.gz")]) == 1


def test_the_same_patch_computes_the_same(dataset: Path, tmp_path: Path) -> None:
    plans = json.loads((dataset / "nnsslPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    (dataset / "nnsslPlans.json").write_text(json.dumps(plans))
    file, source = saved(tmp_path, dataset, [16, 16, 16])
    assert export(file, tmp_path) == 0
    target = build_primus("primus_s", plans, "3d_fullres", json.loads((dataset / "dataset.json").read_text()))
    target.load_state_dict(torch.load(tmp_path / "init.pth", weights_only=True)["network_weights"])
    tokens = []
    for network in (source.eval(), target.eval()):
        network.eva.register_forward_hook(lambda _m, _i, out: tokens.append(out[0] if isinstance(out, tuple) else out))
        with torch.no_grad():
            network(torch.linspace(-1, 1, 16**3).reshape(1, 1, 16, 16, 16))
    assert torch.equal(tokens[0], tokens[1])


def test_mistakes(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file, _ = saved(tmp_path, dataset, [16, 16, 16])
    assert export(file, tmp_path, "--decoder", "pretrained") == 2
    assert "always starts fresh" in capfd.readouterr().err
    where = ("-d", "901", "-c", "3d_fullres", "-o", str(tmp_path / "init.pth"))
    assert run_command("export", str(file), *where) == 2
    assert "--network primus_s" in capfd.readouterr().err
    torch.save({"encoder.stages.0.blocks.0.conv1.conv.weight": torch.ones(4, 1, 3, 3, 3)}, tmp_path / "unet.pth")
    plans = json.loads((dataset / "nnsslPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 12, 16]
    with pytest.raises(NnsslError, match=r"8x12x16; a Primus cuts 3D patches into cubes of 8 voxels"):
        build_primus("primus_s", plans, "3d_fullres", json.loads((dataset / "dataset.json").read_text()))
    assert not (tmp_path / "init.pth").exists()
