"""Weights named in the plans: found, fitted and reported by the trainers themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from nnssl.trainers.finetune import nnUNetTrainer_SSLSawtooth, nnUNetTrainer_SSLWarmup
from nnssl.trainers.finetune_groups import frozen_part, layered_groups
from nnssl.trainers.finetune_init import seen_in_pretraining
from nnssl.trainers.finetune_plan import draw_cases
from nnssl.trainers.finetune_settings import FinetuneSettings, check_fits
from nnssl.trainers.recipes import first_width

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import pack_encoder, write_encoder
from tests.conftest import run_command
from tests.trainers.test_finetuning import nnunet

TRAIN = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
TWO = ("student", "teacher")
SHORT = ("--epochs", "1", "--iterations", "2", "--val-iterations", "1")


@pytest.fixture
def target(pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planned target; returns its preprocessed folder."""
    preprocessed = tmp_path / "preprocessed"
    shutil.copytree(pretraining / "preprocessed" / "Dataset901_Target", preprocessed / "Dataset901_Target")
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    return preprocessed / "Dataset901_Target"


@pytest.fixture
def encoder(target: Path, tmp_path: Path) -> Path:
    """An encoder file for the target's plans, one residual block short in the last stage and without a decoder."""
    plans = json.loads((target / "nnsslPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    shorter = json.loads(json.dumps(configuration["architecture"]))
    shorter["arch_kwargs"]["n_blocks_per_stage"][-1] = 1
    unet = build_unet(shorter, 1, 2)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    content = pack_encoder(
        unet.encoder,
        None,
        plans=plans,
        configuration_name="3d_fullres",
        configuration={**configuration, "architecture": shorter},
        channels=1,
        provenance={"case_digests": list(_digests(target).values())[:2]},
        citations=[],
    )
    write_encoder(content, tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def _digests(target: Path) -> dict[str, str]:
    return json.loads((target / "dataset_fingerprint.json").read_text())["nnssl"]["cases"]


def plan(*arguments: str) -> int:
    return run_command("plan_finetune", "-d", "901", *arguments)


def test_what_would_not_load_is_refused_before_anything_is_written(
    target: Path, encoder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert plan("--init", str(encoder), "-o", "few") == 2
    assert "% of the target's encoder would be pretrained" in capsys.readouterr().err
    assert plan("--init", str(encoder.with_name("none.pth")), "-o", "few") == 2
    assert plan("--init", str(encoder), "-o", "few", "--min-coverage", "0.5", "--layer-decay", "1.5") == 2
    assert "layer_decay" in capsys.readouterr().err
    assert plan("-o", "few") == 2
    assert plan("--init", str(encoder), "-o", "few", "--schedule", "scratch") == 2
    assert plan("--init", str(encoder), "-o", "nnsslPlans", "--min-coverage", "0.5") == 2
    assert "another name" in capsys.readouterr().err
    long = ("--init", str(encoder), "-o", "few", "--min-coverage", "0.5", "--epochs", "20")
    assert plan(*long, "--warmup", "20") == 2
    assert "warmup_epochs=20" in capsys.readouterr().err
    assert plan(*long, "--warmup", "10", "--schedule", "sawtooth") == 2
    assert "warmup_epochs=10" in capsys.readouterr().err
    assert plan(*long, "--freeze-stages", "99") == 2
    assert "freeze_stages=99" in capsys.readouterr().err
    assert not (target / "few.json").exists()


def test_other_files_of_the_dataset_are_never_replaced(target: Path, capsys: pytest.CaptureFixture) -> None:
    (target / "nnUNetPlans.json").write_text((target / "nnsslPlans.json").read_text())
    before = {path: path.read_bytes() for path in target.glob("*.json")}
    for name in ("dataset", "nnUNetPlans", "nnsslPlans_3d_fullres_pool", "dataset_fingerprint", "../x"):
        assert plan("-o", name, "--schedule", "scratch", "--overwrite") == 2
        assert f"-o {name}:" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in target.glob("*.json")} == before
    assert not list(target.parent.glob("*.json"))


def test_a_short_training_gets_the_recipe_that_was_measured_for_it(target: Path, encoder: Path) -> None:
    covered = ("--init", str(encoder), "--min-coverage", "0.5")

    def block(*arguments: str) -> dict:
        assert plan("-o", "few", "--overwrite", *arguments) == 0
        return json.loads((target / "few.json").read_text())["nnssl"]

    asked = block(*covered, "--epochs", "20", "--iterations", "10", "--lr", "1e-4", "--no-rescale")
    assert (asked["optimizer"], asked["head"], asked["average"]) == ("adamw", "fitted", 4)
    assert asked["warmup_epochs"] == pytest.approx(0.4), "a share of the steps, in epochs"
    assert (asked["initial_lr"], asked["rescale"]) == (1e-4, False), "what the user says stands"
    control = block("--schedule", "scratch", "--epochs", "20", "--iterations", "10")
    assert control["initial_lr"] > asked["initial_lr"]
    assert {k: control[k] for k in ("optimizer", "head", "average", "warmup_epochs")} == {
        k: asked[k] for k in ("optimizer", "head", "average", "warmup_epochs")
    }, "the control differs by its rate alone"
    sgd = block(*covered, "--epochs", "20", "--iterations", "10", "--optimizer", "sgd")
    assert "initial_lr" not in sgd, "no rate of AdamW's for SGD"
    for arguments in ((*covered,), (*covered, "--epochs", "20", "--iterations", "10", "--recipe", "published")):
        assert not {"optimizer", "initial_lr", "head", "average", "rescale"} & set(block(*arguments))


def test_names_of_a_plain_state_dict(target: Path, encoder: Path, capsys: pytest.CaptureFixture) -> None:
    weights = torch.load(encoder, weights_only=True)["network_weights"]
    plain = encoder.with_name("plain.pth")
    torch.save({f"{who}.{key}": value + (who == "student") for key, value in weights.items() for who in TWO}, plain)
    arguments = ("--init", str(plain), "-o", "few", "--min-coverage", "0.5")
    assert plan(*arguments) == 2
    assert "--key-prefix" in capsys.readouterr().err
    assert plan(*arguments, "--key-prefix", "teacher.=") == 0
    assert json.loads((target / "few.json").read_text())["nnssl"]["key_prefix"] == "teacher.="


def test_the_recipe_knows_the_width_of_a_configuration_that_inherits(target: Path) -> None:
    plans = json.loads((target / "nnsslPlans.json").read_text())
    width = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"]
    width[0] = 64
    plans["configurations"]["3d_larger"] = {"inherits_from": "3d_fullres", "batch_size": 2}
    assert first_width(plans, "3d_larger") == 64


@pytest.mark.slow
def test_one_command_is_left_and_the_log_says_what_was_loaded(
    target: Path, encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    options = ("--min-coverage", "0.5", "--train-cases", "2", "--freeze-stages", "1", "--layer-decay", "0.5")
    options = (*options, "--head", "fitted", "--average", "4", "--decay-power", "2", "--recipe", "published")
    assert plan("--init", str(encoder), "-o", "few", *SHORT, *options) == 0
    said = capfd.readouterr().out
    assert "-p few -tr nnUNetTrainer_SSLWarmup" in said
    done = nnunet(TRAIN, "901", "3d_fullres", "0", "-p", "few", "-tr", "nnUNetTrainer_SSLWarmup", "-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "encoder covered" in done.stdout
    assert "segmentation layers fitted" in done.stdout
    assert "WARNING: no pretrained" not in done.stdout
    model = tmp_path / "results" / "Dataset901_Target" / "nnUNetTrainer_SSLWarmup__few__3d_fullres" / "fold_0"
    trained = torch.load(model / "checkpoint_final.pth", map_location="cpu", weights_only=False)["network_weights"]
    file = torch.load(encoder, weights_only=True)["network_weights"]
    frozen = "encoder.stages.0.blocks.0.conv1.conv.weight"
    assert torch.equal(trained[frozen], file[frozen]), "a frozen stage stays as it was loaded"
    assert torch.equal(trained["encoder.stem.convs.0.conv.weight"], file["encoder.stem.convs.0.conv.weight"])
    learned = "encoder.stages.1.blocks.0.conv1.conv.weight"
    assert not torch.equal(trained[learned], file[learned])
    assert torch.allclose(trained[learned], file[learned], atol=0.05), "it started from the file"

    # weights twice over is an error, and the control from scratch takes none
    init = tmp_path / "init.pth"
    assert run_command(
        "export", str(encoder), "-d", "901", "-p", "few", "-c", "3d_fullres", "-o", str(init), "--min-coverage", "0.5"
    ) == 0  # fmt: skip
    again = ("901", "3d_fullres", "0", "-p", "few", "-device", "cpu")
    done = nnunet(TRAIN, *again, "-tr", "nnUNetTrainer_SSLWarmup", "-pretrained_weights", str(init))
    assert done.returncode != 0
    assert "take one of them out" in done.stderr
    done = nnunet(TRAIN, *again, "-tr", "nnUNetTrainer_SSLScratch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "leaves encoder.pth of the plans' block alone" in done.stdout
    assert "encoder: 0 of" in done.stdout


def test_draws_are_nested_differ_by_seed_and_keep_patients_together(target: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "Dataset901_Target"
    raw.mkdir(parents=True)
    names = sorted(_digests(target))
    rows = "\n".join(f"{n},p{i // 2}" for i, n in enumerate(names))
    (raw / "subjects.csv").write_text(f"case,subject\n{rows}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        where = ("Dataset901_Target", "nnsslPlans", "3d_fullres", "all")
        draws = [draw_cases(*where, n, 3) for n in (2, 4, 6)]
        assert draws[0] == draws[1][:2]
        assert draws[1] == draws[2][:4]
        assert {names.index(c) // 2 for c in draws[0]} == {names.index(draws[0][0]) // 2}, "two frames of one patient"
        assert len({tuple(draw_cases(*where, 2, s)) for s in range(8)}) > 1
        with pytest.raises(NnsslError, match="has 6 training cases"):
            draw_cases(*where, 7, 0)


@pytest.mark.parametrize("residual", [True, False])
def test_deeper_stages_learn_faster_and_every_parameter_stands_in_one_group(unet_3d: dict, residual: bool) -> None:
    if not residual:
        unet_3d["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        unet_3d["arch_kwargs"]["n_conv_per_stage"] = unet_3d["arch_kwargs"].pop("n_blocks_per_stage")
    unet = build_unet(unet_3d, 1, 2)
    groups = layered_groups(unet, 0.5, 1e-4)
    assert [g["lr_scale"] for g in groups] == [1.0, 0.5, 0.25, 0.125]
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in unet.parameters())
    first = next(unet.encoder.parameters())
    assert any(first is p for p in groups[-1]["params"]), "the input's convolution learns slowest"
    frozen, modules = frozen_part(unet, 1)
    assert any(first is p for p in frozen)
    assert len(modules) == (2 if residual else 1)
    assert len(layered_groups(unet, 1, 0)) == 1


def test_cases_that_pretraining_saw_are_found_by_their_voxels() -> None:
    fingerprint = {"nnssl": {"cases": {"a": "1", "b": "2", "c": "3"}}}
    assert seen_in_pretraining({"case_digests": ["2", "9"]}, fingerprint, ["a", "b"]) == ["b"]
    assert seen_in_pretraining({"case_digests": ["2"], "subject_scan_digests": ["1"]}, fingerprint, ["a", "c"]) == ["a"]
    assert seen_in_pretraining({"case_digests": ["2"], "subject_scan_digests": None}, fingerprint, ["a"]) == []
    assert seen_in_pretraining({}, fingerprint, ["a"]) == []
    assert seen_in_pretraining({"case_digests": ["2"]}, None, ["b"]) == []


@pytest.mark.parametrize("new_decoder", [False, True])
def test_what_is_not_pretrained_has_a_rate_of_its_own(unet_3d: dict, new_decoder: bool) -> None:
    unet = build_unet(unet_3d, 1, 3)
    groups = layered_groups(unet, 1, 0, new_lr=5.0, new_decoder=new_decoder)
    assert [g["lr_scale"] for g in groups] == [1, 5]
    fast = {id(p) for p in groups[1]["params"]}
    expected = {
        id(p) for n, p in unet.named_parameters() if n.startswith("decoder.") and (new_decoder or ".seg_layers." in n)
    }
    assert fast == expected
    assert sum(len(g["params"]) for g in groups) == len(list(unet.parameters()))


def test_a_ramp_ends_before_the_training_and_frozen_stages_are_there() -> None:
    check_fits(FinetuneSettings(warmup_epochs=19.9, freeze_stages=6), 20, 6, sawtooth=False)
    check_fits(FinetuneSettings(warmup_epochs=9.9, freeze_stages=99), 20, None, sawtooth=True)
    check_fits(FinetuneSettings(warmup_epochs=0), 1, 6, sawtooth=True)
    for settings, sawtooth in (
        (FinetuneSettings(warmup_epochs=20), False),
        (FinetuneSettings(warmup_epochs=30), True),
        (FinetuneSettings(warmup_epochs=10), True),
        (FinetuneSettings(freeze_stages=7), False),
    ):
        with pytest.raises(NnsslError, match=r"warmup_epochs=|freeze_stages=7: the encoder has 6"):
            check_fits(settings, 20, 6, sawtooth)


def test_the_trainers_refuse_such_settings_themselves(target: Path) -> None:
    plans = json.loads((target / "nnsslPlans.json").read_text())
    content = json.loads((target / "dataset.json").read_text())
    for block, trainer in (
        ({"num_epochs": 4, "warmup_epochs": 2}, nnUNetTrainer_SSLSawtooth),
        ({"num_epochs": 4, "warmup_epochs": 4}, nnUNetTrainer_SSLWarmup),
        ({"num_epochs": 4, "freeze_stages": 99}, nnUNetTrainer_SSLWarmup),
    ):
        made = trainer(
            {**plans, "nnssl": block, "continue_training": False}, "3d_fullres", "all", content, torch.device("cpu")
        )
        with pytest.raises(NnsslError, match=r"warmup_epochs|freeze_stages"):
            made.initialize()
