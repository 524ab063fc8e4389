"""The fine-tuning trainers under nnU-Net's own, unmodified commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnssl.trainers.finetune import nnUNetTrainer_SSLScratch
from nnssl.trainers.finetune_settings import settings_from_plans

from nnssl.errors import NnsslError
from tests.conftest import run_command, run_folder

BLOCK = {
    "num_epochs": 2,
    "num_iterations_per_epoch": 2,
    "num_val_iterations_per_epoch": 1,
    "optimizer": "adamw",
    "initial_lr": 1e-3,
}


def nnunet(code: str, *arguments: str, nnssl: bool = True) -> subprocess.CompletedProcess:
    """Run one of nnU-Net's entry points in a process of its own; without nnssl, importing it fails there."""
    block = "" if nnssl else "sys.modules['nnssl'] = None\n"
    script = f"import sys\n{block}sys.argv = ['nnUNet', *{list(arguments)!r}]\n{code}\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not nnssl:
        environment.pop("nnUNet_extTrainer", None)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, env=environment)


TRAIN = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
PREDICT = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point; predict_entry_point()"


@pytest.fixture
def target(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planned target whose plans hold the settings block; returns the preprocessed folder."""
    preprocessed = tmp_path / "preprocessed"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", preprocessed / "Dataset901_Target")
    shutil.copytree(pretraining / "preprocessed" / "Dataset902_Pool", preprocessed / "Dataset902_Pool")
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    plans_file = preprocessed / "Dataset901_Target" / "nnsslPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["nnssl"] = BLOCK
    plans_file.write_text(json.dumps(plans))
    return preprocessed / "Dataset901_Target"


@pytest.mark.parametrize("settings", [{}, {"freeze_stages": 1, "average": 4.0, "new_layers_lr": 2.0}])
def test_several_gpus_wrap_the_network_after_the_optimiser(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    """nnU-Net's order of things with -num_gpus 2: it knows of the other processes before the network is wrapped."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as base

    plans = json.loads((target / "nnsslPlans.json").read_text())
    plans |= {"continue_training": False, "nnssl": {**BLOCK, **settings}}
    described = json.loads((target / "dataset.json").read_text())
    trainer = nnUNetTrainer_SSLScratch(plans, "3d_fullres", 0, described, torch.device("cpu"))
    wrap = torch.nn.parallel.DistributedDataParallel
    monkeypatch.setattr(base, "DDP", lambda network, device_ids: wrap(network))  # nnU-Net names a GPU here
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        trainer.is_ddp, trainer.batch_size, trainer.oversample_foreground_percent = True, 2, 0.33
        monkeypatch.setattr(trainer, "_set_batch_size_and_oversample", lambda: None)
        trainer.initialize()
        assert isinstance(trainer.network, wrap)
        trainer.on_train_epoch_start()
        patch = trainer.configuration_manager.patch_size
        sizes = [[n // f for n, f in zip(patch, step)] for step in _deep_supervision(trainer)]
        before = {k: v.clone() for k, v in trainer._unet().state_dict().items()}
        stem = trainer._unet().encoder.stem.convs[0].conv.weight
        clipped = []  # what nnU-Net's clipping counts of the stem
        clip = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(
            torch.nn.utils,
            "clip_grad_norm_",
            lambda parameters, most: (clipped.append(float(stem.grad.norm())), clip(parameters, most)),
        )
        trainer.train_step({"data": torch.randn(2, 1, *patch), "target": [torch.zeros(2, 1, *s) for s in sizes]})
        moved = {k for k, v in trainer._unet().state_dict().items() if not torch.equal(v, before[k])}
        assert "encoder.stages.1.blocks.0.skip.1.conv.weight" in moved
        assert ("encoder.stem.convs.0.conv.weight" in moved) == ("freeze_stages" not in settings)
        assert [norm > 0 for norm in clipped] == ["freeze_stages" not in settings]
    finally:
        torch.distributed.destroy_process_group()


def _deep_supervision(trainer: Any) -> list[list[int]]:
    """Size of the crop per size of each output."""
    return [[round(1 / s) for s in scale] for scale in trainer._get_deep_supervision_scales()]


def train(trainer: str, *more: str, nnssl: bool = True) -> subprocess.CompletedProcess:
    base = ("901", "3d_fullres", "0", "-p", "nnsslPlans", "-tr", trainer, "-device", "cpu")
    return nnunet(TRAIN, *base, *more, nnssl=nnssl)


def test_pretrain_finetune_predict(target: Path, tmp_path: Path, planned: Path) -> None:
    """The main job: pretrain, fine-tune with a trainer of ours, predict where nnssl cannot be imported."""
    quick = ("-device", "cpu", "--epochs", "1", "--iterations", "2", "--set", "val_iterations=1")
    assert run_command("pretrain", "902", "3d_fullres", "-m", "masked_region", *quick) == 0
    init = run_folder(tmp_path / "results") / "nnunet_init.pth"
    done = train("nnUNetTrainer_SSLWarmup", "-pretrained_weights", str(init))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'num_epochs': 2" in done.stdout
    assert "encoder: 0 of" not in done.stdout
    assert "WARNING: no pretrained" not in done.stdout

    model = tmp_path / "results" / "Dataset901_Target" / "nnUNetTrainer_SSLWarmup__nnsslPlans__3d_fullres"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert len(checkpoint["logging"]["train_losses"]) == 2

    images = tmp_path / "in"
    images.mkdir()
    shutil.copyfile(
        planned / "raw" / "Dataset901_Target" / "imagesTr" / "case_000_0000.nii.gz", images / "case_000_0000.nii.gz"
    )
    places = ("-i", str(images), "-o", str(tmp_path / "out"), "-d", "901", "-c", "3d_fullres", "-f", "0")
    options = ("-p", "nnsslPlans", "-tr", "nnUNetTrainer_SSLWarmup", "-device", "cpu", "-npp", "1", "-nps", "1")
    done = nnunet(PREDICT, *places, *options, "--disable_tta", nnssl=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "case_000.nii.gz").is_file()

    # the stock trainer takes the same file, with no plug-in at all; one look at its loader is enough here
    code = (
        "from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint\n"
        "import torch\n"
        "trainer = get_trainer_from_args('901', '3d_fullres', 0, 'nnUNetTrainer', 'nnsslPlans', False, "
        "torch.device('cpu'))\n"
        f"maybe_load_checkpoint(trainer, False, False, {str(init)!r})\n"
    )
    done = nnunet(code, nnssl=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_resume_lands_in_the_right_stage(target: Path, tmp_path: Path) -> None:
    """A sawtooth stopped after its decoder-only stage goes on with the encoder learning, and with its average."""
    plans_file = target / "nnsslPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["nnssl"] = {**BLOCK, "num_epochs": 30, "num_iterations_per_epoch": 1, "average": 4}
    latest = str(tmp_path / "checkpoint_latest.pth")
    plans_file.write_text(json.dumps(plans))
    code = (
        "import torch\n"
        "from nnunetv2.run.run_training import get_trainer_from_args\n"
        "def trainer():\n"
        "    t = get_trainer_from_args('901', '3d_fullres', 0, 'nnUNetTrainer_SSLSawtooth', 'nnsslPlans', False, "
        "torch.device('cpu'))\n"
        "    t.initialize()\n"
        "    return t\n"
        "def run(t, epochs):\n"
        "    g = torch.Generator().manual_seed(t.current_epoch)\n"
        "    scales = t._get_deep_supervision_scales()\n"
        "    for _ in range(epochs):\n"
        "        size = t.configuration_manager.patch_size\n"
        "        data = torch.randn(2, 1, *size, generator=g)\n"
        "        shapes = [[round(n * f) for n, f in zip(size, s)] for s in scales]\n"
        "        targets = [torch.randint(0, 3, (2, 1, *s), generator=g) for s in shapes]\n"
        "        t._iteration = 0\n"
        "        t._set_stage()\n"
        "        before = [p.clone() for p in t.network.encoder.parameters()]\n"
        "        t.network.train()\n"
        "        t.train_step({'data': data, 'target': targets})\n"
        "        moved = any((a != b).any() for a, b in zip(before, t.network.encoder.parameters()))\n"
        "        print('EPOCH', t.current_epoch, 'encoder moved', bool(moved), "
        "'lr', round(t.optimizer.param_groups[0]['lr'], 6))\n"
        "        t.current_epoch += 1\n"
        "a = trainer()\n"
        "run(a, 3)\n"
        "a.current_epoch -= 1\n"
        f"a.save_checkpoint({latest!r})\n"
        "b = trainer()\n"
        f"b.load_checkpoint({latest!r})\n"
        "run(b, 1)\n"
        "a.current_epoch += 1\n"
        "run(a, 1)\n"
        "with a.evaluated_weights(), b.evaluated_weights():\n"
        "    print('SAME', all(torch.equal(p, q) for p, q in zip(a.network.parameters(), b.network.parameters())))\n"
    )
    done = nnunet(code)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("EPOCH")]
    # 30 epochs: unit 1.5, so the decoder alone until epoch 3; epoch 3 is the first of the whole network
    assert [(r[1], r[4]) for r in rows] == [
        ("0", "False"),
        ("1", "False"),
        ("2", "False"),
        ("3", "True"),
        ("3", "True"),
    ]
    assert "SAME True" in done.stdout


@pytest.mark.slow
def test_a_finished_training_that_is_continued_keeps_its_average(target: Path, tmp_path: Path) -> None:
    plans_file = target / "nnsslPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["nnssl"] = {**BLOCK, "average": 4, "head": "fitted"}
    plans_file.write_text(json.dumps(plans))
    done = train("nnUNetTrainer_SSLScratch")
    assert done.returncode == 0, done.stdout + done.stderr
    model = tmp_path / "results" / "Dataset901_Target" / "nnUNetTrainer_SSLScratch__nnsslPlans__3d_fullres" / "fold_0"

    def weights(name: str, key: str = "network_weights") -> torch.Tensor:
        content = torch.load(model / name, map_location="cpu", weights_only=False)[key]
        return torch.cat([v.flatten() for v in content.values()])

    before = weights("checkpoint_final.pth")
    learning = weights("checkpoint_best.pth", "nnssl_learning")
    assert not torch.equal(weights("checkpoint_best.pth"), learning), "the best checkpoint hands over the average"
    done = train("nnUNetTrainer_SSLScratch", "--c")
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.equal(weights("checkpoint_final.pth"), before)


@pytest.mark.slow
def test_the_control_refuses_pretrained_weights_and_the_others_miss_them(target: Path, tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from nnunetv2.run.run_training import get_trainer_from_args\n"
        "for name, loaded in (('SSLScratch', True), ('SSLWarmup', False)):\n"
        "    t = get_trainer_from_args('901', '3d_fullres', 0, 'nnUNetTrainer_' + name, 'nnsslPlans', False, "
        "torch.device('cpu'))\n"
        "    t.initialize()\n"
        "    if loaded:\n"
        "        for p in t.network.parameters():\n"
        "            p.data += 1\n"
        "    try:\n"
        "        t._report_pretrained()\n"
        "    except ValueError as error:\n"
        "        print('REFUSED', error)\n"
    )
    done = nnunet(code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "REFUSED nnUNetTrainer_SSLScratch is the control" in done.stdout
    assert "WARNING: no pretrained encoder was loaded" in done.stdout


def test_settings_block_is_checked() -> None:
    assert settings_from_plans({}).taken() == {}
    assert settings_from_plans({"nnssl": BLOCK}).taken() == BLOCK
    for block, said in (
        ({"num_epoch": 3}, "Did you mean 'num_epochs'"),
        ({"num_epochs": 0}, "num_epochs=0"),
        ({"optimizer": "lion"}, "optimizer='lion'"),
        ({"train_cases": []}, "train_cases"),
        ([], "must be an object"),
    ):
        with pytest.raises(NnsslError, match=said):
            settings_from_plans({"nnssl": block})


def test_train_cases_narrow_the_split(target: Path) -> None:
    plans = json.loads((target / "nnsslPlans.json").read_text())
    from nnssl.trainers import nnUNetTrainer_SSLScratch

    dataset_json = json.loads((target / "dataset.json").read_text())

    def trainer(cases: list[str]) -> nnUNetTrainer_SSLScratch:
        mine = {**plans, "nnssl": {"train_cases": cases}, "continue_training": False}
        return nnUNetTrainer_SSLScratch(mine, "3d_fullres", 0, dataset_json, torch.device("cpu"))

    training, validation = nnUNetTrainer_SSLScratch(
        {**plans, "continue_training": False}, "3d_fullres", 0, dataset_json, torch.device("cpu")
    ).do_split()
    assert trainer(training[:2]).do_split() == (training[:2], validation)
    with pytest.raises(NnsslError, match="not among the training cases"):
        trainer([validation[0]]).do_split()


def test_trainers_are_found_through_the_plugin_more_than_once(pretraining: Path) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    first, second = (recursive_find_trainer_class_by_name("nnUNetTrainer_SSLWarmup") for _ in range(2))
    assert first is second
    assert first.__module__ == "nnssl.trainers.finetune"
