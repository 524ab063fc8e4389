"""A U-Net on a timm backbone: planned, pretrained, exported, fine-tuned by nnU-Net's own command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import Target, complete_network
from nnssl.transfer.reading import read_weights
from nnssl.transfer.verify import verify_file
from tests.conftest import run_command
from tests.trainers.test_finetuning import TRAIN, nnunet

QUICK = ("-device", "cpu", "--epochs", "1", "--iterations", "1", "--set", "val_iterations=1", "--batch-size", "2")


@pytest.mark.slow
def test_the_whole_way_with_a_resnet(
    pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    preprocessed = tmp_path / "preprocessed"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", preprocessed / "Dataset901_Target")
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    base = ("plan_and_preprocess", "-d", "901", "--size", "S", "-np", "1", "-p", "resPlans")
    assert run_command(*base, "--encoder", "resnet10x") == 2
    assert "timm has no model" in capfd.readouterr().err
    assert run_command(*base, "--encoder", "resnet10t") == 0
    plans = json.loads((preprocessed / "Dataset901_Target" / "resPlans.json").read_text())
    assert list(plans["configurations"]) == ["2d"]
    configuration = plans["configurations"]["2d"]
    assert all(n % 32 == 0 for n in configuration["patch_size"])

    assert run_command("pretrain", "901", "2d", "-m", "masked_region", "-p", "resPlans", *QUICK) == 0
    run = tmp_path / "results" / "Dataset901_Target" / "nnsslTrainer_MaskedRegion__resPlans__2d" / "fold_all"
    verify_file(run / "encoder.pth")
    short = ("--epochs", "1", "--iterations", "1", "--val-iterations", "1", "-o", "resShort", "-c", "2d")
    init = ("--init", str(run / "encoder.pth"))
    assert run_command("plan_finetune", "-d", "901", "-p", "resPlans", *init, *short) == 0
    done = nnunet(TRAIN, "901", "2d", "0", "-p", "resShort", "-tr", "nnUNetTrainer_SSLWarmup", "-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "encoder covered: 100.0 %" in done.stdout

    # what is loaded is the file's, and another network takes nothing
    weights = read_weights(run / "encoder.pth")
    target = Target(configuration["architecture"], 1)
    state, report = complete_network(weights, target, "fresh", 0)
    assert report.encoder_coverage == 1
    network = build_unet(configuration["architecture"], 1, 3)
    network.load_state_dict(state, strict=False)
    for key, value in network.encoder.state_dict().items():
        assert torch.equal(value, weights.tensors[f"encoder.{key}"]), key
    with pytest.raises(NnsslError, match="nothing can be carried over"):
        complete_network(weights, Target(_plain_unet(plans), 1), "fresh", 0)
    other = json.loads(json.dumps(configuration["architecture"]).replace("resnet10t", "resnet18"))
    with pytest.raises(NnsslError, match="pretrained on the backbone resnet10t"):
        complete_network(weights, Target(other, 1), "fresh", 0)


def _plain_unet(plans: dict) -> dict:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": plans["configurations"]["2d"]["architecture"]["arch_kwargs"],
        "_kw_requires_import": [],
    }
