"""Every method through the real command: run, stop and continue, export, load into nnU-Net, one step of fine-tuning."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from nnssl.trainers.finetune import nnUNetTrainer_SSLWarmup
from nnssl.trainers.methods import TRAINERS, trainer_for
from nnssl.trainers.pretraining import nnsslTrainer
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans
from nnssl.methods import METHODS
from nnssl.transfer import read_encoder, torch_files
from tests.conftest import run_command
from tests.trainers.test_pretraining import metrics, same_tensors

NAMES = [*sorted(METHODS), "spark+simclr"]


@pytest.fixture
def results(pretraining: Path, tmp_path: Path) -> Path:
    return tmp_path / "results"


def one_finetuning_step(init: Path, configuration: str) -> None:
    """The target's trainer takes the file with nnU-Net's own loader and learns from a batch."""
    plans = read_plans("Dataset901_Target", "nnsslPlans") | {"continue_training": False}
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / "Dataset901_Target" / "dataset.json")
    trainer = nnUNetTrainer_SSLWarmup(plans, configuration, 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(init), verbose=False)
    trained = torch.load(init, weights_only=True)["network_weights"]
    encoder = {f"encoder.{k}": v.clone() for k, v in trainer.network.encoder.state_dict().items()}
    assert all(torch.equal(v, trained[k]) for k, v in encoder.items())
    trainer.network.train()
    trainer.optimizer.param_groups[0]["lr"] = 1e-2
    patch = trainer.configuration_manager.patch_size
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(2, 1, *patch, generator=draw)
    target = [torch.randint(0, 3, (2, 1, *(int(n * s) for n, s in zip(patch, scale))), generator=draw).float()
              for scale in trainer._get_deep_supervision_scales()]  # fmt: skip
    loss = trainer.train_step({"data": data, "target": target})["loss"]
    assert torch.isfinite(torch.as_tensor(loss))
    after = trainer.network.encoder.state_dict()
    assert any(not torch.equal(encoder[f"encoder.{k}"], v) for k, v in after.items()), "the encoder learns"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_resumes_exports_and_finetunes(name: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2D and 3D take turns over the methods; every method meets every shape in tests/methods."""
    configuration = ("2d", "3d_fullres")[NAMES.index(name) % 2]
    quick = ("902", configuration, "-m", name, "--executor", "dense", "-device", "cpu", "--iterations", "2", "--epochs", "2",
             "--batch-size", "4", "--set", "val_iterations=2", "--set", "workers=0")  # fmt: skip
    assert run_command("pretrain", *quick, "--name", "whole") == 0
    step, done = nnsslTrainer._step, [0]

    def counted(self: nnsslTrainer, batch: object) -> None:
        step(self, batch)  # type: ignore[arg-type]
        done[0] += 1
        if done[0] == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(nnsslTrainer, "_step", counted)
    assert run_command("pretrain", *quick, "--name", "stopped") == 128 + signal.SIGUSR1
    assert run_command("pretrain", *quick, "--name", "stopped", "--c") == 0

    def folder(run: str) -> Path:
        trainer = trainer_for(name, run).__name__
        return results / "Dataset902_Pool" / f"{trainer}__nnsslPlans__{configuration}" / "fold_all"

    assert metrics(folder("whole")) == metrics(folder("stopped"))
    a, b = (torch_files.load(folder(run) / "checkpoint_final.pth") for run in ("whole", "stopped"))
    for key in ("method_state", "optimizer_state", "epoch", "step"):
        assert same_tensors(a[key], b[key]), key
    encoder = read_encoder(folder("whole") / "encoder.pth")
    assert encoder.provenance["method"] == name
    assert encoder.citations
    assert (folder("whole") / "preview.png").stat().st_size > 5000
    one_finetuning_step(folder("whole") / "nnunet_init.pth", configuration)


def test_a_trainer_per_method_for_nnunet() -> None:
    import nnssl.trainers

    assert set(TRAINERS) >= set(METHODS)
    for name, cls in TRAINERS.items():
        assert cls.method_name == name
        assert getattr(nnssl.trainers, cls.__name__) is cls
        assert cls.__name__ in nnssl.trainers.__all__
    assert TRAINERS["spark"].__name__ == "nnsslTrainer_SparK"
    assert trainer_for("spark+simclr").__name__ == "nnsslTrainer_SparKPlusSimCLR"


def test_a_continued_sum_keeps_its_settings(results: Path, capsys: pytest.CaptureFixture) -> None:
    start = ("902", "2d", "-m", "masked_region+flip", "-device", "cpu", "--iterations", "1", "--epochs", "1",
             "--batch-size", "2", "--set", "val_iterations=1")  # fmt: skip
    assert run_command("pretrain", *start) == 0
    assert run_command("pretrain", *start, "--c", "--set", "masked_region.mask_ratio=0.9") == 2
    assert "masked_region.mask_ratio is 0.6 there, not 0.9" in capsys.readouterr().err
    assert run_command("pretrain", *start, "--c", "--set", "masked_region.mask_ratio=0.6") == 0


def test_positives_from_subjects_need_subjects(results: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("902", "3d_fullres", "-m", "byol", "-device", "cpu", "--set", "positives=subject")
    assert run_command("pretrain", *arguments) == 2
    assert "subjects.csv" in capsys.readouterr().err
