"""Every format gives the weights that were trained, under nnU-Net's names, with what it says about network and images."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import Target, Weights, complete_network, pack_encoder, write_encoder, write_nnunet_init
from nnssl.transfer.adapt.keys import is_second_name
from nnssl.transfer.architecture import contradiction, res_enc_l
from nnssl.transfer.describe import describe_file
from nnssl.transfer.names import dense_tensors, only_unet
from nnssl.transfer.reading import read_weights
from tests.transfer.foreign_files import (
    adaptation_plan,
    flat,
    nnunet_checkpoint,
    nnunet_plans,
    openmind,
    plain_conv,
    spark,
    trained_unet,
)

VARIANTS = {"residual": lambda a: a, "plain": plain_conv, "2d": flat, "plain 2d": lambda a: flat(plain_conv(a))}


@pytest.fixture(params=VARIANTS)
def architecture(request: pytest.FixtureRequest, unet_3d: dict) -> dict:
    return VARIANTS[request.param](unet_3d)


def check(weights: Weights, network: torch.nn.Module, architecture: dict, channels: int = 1) -> None:
    """The tensors are the network's, first names only, and a fresh encoder takes them strictly."""
    assert not any(is_second_name(k) for k in weights.tensors)
    state = network.state_dict()
    wanted = {k for k in state if k.startswith("encoder.") and not is_second_name(k)}
    assert {k for k in weights.tensors if k.startswith("encoder.")} == wanted
    assert all(torch.equal(v, state[k]) for k, v in weights.tensors.items())
    assert weights.channels == channels
    assert weights.stages == architecture["arch_kwargs"]["n_stages"]
    assert weights.residual == ("Residual" in architecture["network_class_name"])
    complete, report = complete_network(weights, Target(architecture, channels), "fresh", 0)
    assert report.encoder_coverage == 1
    fresh = build_unet(architecture, channels, 2)
    fresh.load_state_dict(complete, strict=False)
    x = torch.randn(1, channels, *([16] * (fresh.encoder.conv_op == torch.nn.Conv2d) or [8]), 16, *[16] * (
        fresh.encoder.conv_op == torch.nn.Conv3d))  # fmt: skip
    for a, b in zip(fresh.encoder(x), network.encoder(x)):
        assert torch.equal(a, b)


# -------------------------------------------------------------------- ours


@pytest.mark.parametrize("name", ["encoder.pth", "encoder.safetensors"])
def test_our_encoder_file(architecture: dict, tmp_path: Path, name: str) -> None:
    network = trained_unet(architecture)
    file = pack_encoder(
        network.encoder, network.decoder, plans=nnunet_plans(architecture), configuration_name="3d_fullres",
        configuration={"architecture": architecture, "patch_size": [8, 16, 16], "spacing": [3.0, 1.0, 1.0]}, channels=1,
        provenance={"method": "spark", "steps": 3}, citations=["somebody"],
    )  # fmt: skip
    write_encoder(file, tmp_path / name)
    weights = read_weights(tmp_path / name)
    check(weights, network, architecture)
    assert weights.has_decoder
    assert weights.architecture is not None
    assert weights.pretraining.spacing == (3.0, 1.0, 1.0)
    with pytest.raises(NnsslError, match="--key-prefix is for plain state dicts"):
        read_weights(tmp_path / name, "a.=b.")


@pytest.mark.parametrize("decoder", ["fresh", "pretrained"])
def test_our_file_for_nnunet_leaves_an_untrained_decoder_out(unet_3d: dict, tmp_path: Path, decoder: str) -> None:
    network = trained_unet(unet_3d)
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    write_nnunet_init(
        read_weights(tmp_path / "bare.pth"), tmp_path / "i.pth", target=Target(unet_3d, 1), decoder=decoder, seed=0
    )
    weights = read_weights(tmp_path / "i.pth")
    check(weights, network, unet_3d)
    assert weights.has_decoder == (decoder == "pretrained")
    assert any("never trained" in n for n in weights.notes) == (decoder == "fresh")


def test_a_checkpoint_of_a_run_is_not_taken_for_weights(tmp_path: Path) -> None:
    torch.save({"nnssl_checkpoint": 1, "method_state": {"encoder.stem": torch.zeros(1)}}, tmp_path / "c.pth")
    with pytest.raises(NnsslError, match=r"give the encoder\.pth"):
        read_weights(tmp_path / "c.pth")


# -------------------------------------------------------------------- MIC-DKFZ/nnssl


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_openmind_file(architecture: dict, tmp_path: Path, wrapper: str) -> None:
    network = trained_unet(architecture)
    state = {wrapper + k: v for k, v in network.state_dict().items()}
    torch.save(openmind(state, adaptation_plan(architecture)), tmp_path / "o.pth")
    weights = read_weights(tmp_path / "o.pth")
    check(weights, network, architecture)
    assert weights.architecture == architecture
    assert weights.pretraining.spacing == (1.0, 1.0, 1.0)
    assert weights.pretraining.patch_size == (8, 16, 16)
    assert weights.citations == ("Wald et al. 2025",)
    assert ("was taken off" in " ".join(weights.notes)) == bool(wrapper)


def test_of_their_spark_the_trained_copies_are_taken_and_said_so(architecture: dict, tmp_path: Path) -> None:
    network = trained_unet(architecture)
    torch.save(openmind(spark(network), adaptation_plan(architecture)), tmp_path / "o.pth")
    weights = read_weights(tmp_path / "o.pth")
    check(weights, network, architecture)
    assert any("copies under all_modules are taken" in n for n in weights.notes)


def test_the_same_difference_in_our_file_or_a_checkpoint_stays_an_error(unet_3d: dict, tmp_path: Path) -> None:
    network = trained_unet(unet_3d)
    ours = {**openmind(spark(network), adaptation_plan(unet_3d)), "nnssl_format": 1, "provenance": {}}
    torch.save(ours, tmp_path / "ours.pth")
    with pytest.raises(NnsslError, match="one convolution but differ"):
        read_weights(tmp_path / "ours.pth")
    checkpoint = nnunet_checkpoint(network, unet_3d)
    for name, content in (("n", {**checkpoint, "network_weights": spark(network)}), ("p", spark(network))):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(NnsslError, match="one tensor but differ"):
            read_weights(tmp_path / f"{name}.pth")


def test_a_plan_may_name_its_parts_otherwise(architecture: dict, tmp_path: Path) -> None:
    network = trained_unet(architecture)
    plan = adaptation_plan(architecture)
    plan |= {k: f"model.{plan[k]}" for k in ("key_to_encoder", "key_to_stem")}
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save(openmind({**state, "projector.weight": torch.zeros(2)}, plan), tmp_path / "o.pth")
    weights = read_weights(tmp_path / "o.pth")
    check(weights, network, architecture)
    assert weights.has_decoder
    assert any("left out" in n and "projector.weight" in n for n in weights.notes)
    torch.save(openmind(state, adaptation_plan(architecture)), tmp_path / "wrong.pth")
    with pytest.raises(NnsslError, match=r"key_to_encoder = encoder\.stages, but its tensors are named model\.encoder"):
        read_weights(tmp_path / "wrong.pth")


def test_a_short_name_stands_for_its_network(unet_3d: dict, tmp_path: Path) -> None:
    torch.save(openmind(trained_unet(unet_3d).state_dict(), adaptation_plan("ResEncL")), tmp_path / "o.pth")
    weights = read_weights(tmp_path / "o.pth")
    assert weights.architecture is None, "the tensors are not those of a ResEncL"
    assert any("6 stages are described, 3 are there" in n for n in weights.notes)
    torch.save(openmind(trained_unet(unet_3d).state_dict(), adaptation_plan("SwinUNETR")), tmp_path / "s.pth")
    with pytest.raises(NnsslError, match="'SwinUNETR'"):
        read_weights(tmp_path / "s.pth")
    with torch.device("meta"):
        large = build_unet(res_enc_l(), 1, 2)
    assert contradiction(res_enc_l(), large.state_dict()) is None
    assert [s[0].conv1.conv.weight.shape[0] for s in (stage.blocks for stage in large.encoder.stages)] == [
        32, 64, 128, 256, 320, 320,
    ]  # fmt: skip


def test_a_description_that_does_not_fit_is_not_used(unet_3d: dict, tmp_path: Path) -> None:
    other = copy.deepcopy(unet_3d)
    other["arch_kwargs"]["features_per_stage"] = [8, 16, 32]
    torch.save(openmind(trained_unet(unet_3d).state_dict(), adaptation_plan(other, channels=4)), tmp_path / "o.pth")
    weights = read_weights(tmp_path / "o.pth")
    assert weights.architecture is None
    assert weights.channels == 1
    assert "4 input channels, its tensors have 1" in " ".join(weights.notes)


@pytest.mark.parametrize(
    "change",
    [{"conv_op": "subprocess.Popen"}, {"nonlin": "torch.nn.modules.module.os.system"}, {"norm_op": "torch.hub.load"}],
)
def test_a_description_cannot_name_code_that_building_would_run(unet_3d: dict, tmp_path: Path, change: dict) -> None:
    other = copy.deepcopy(unet_3d)
    other["arch_kwargs"] |= change
    state = trained_unet(unet_3d).state_dict()
    torch.save(openmind(state, adaptation_plan(other)), tmp_path / "o.pth")
    with pytest.raises(NnsslError, match="no layer of PyTorch"):
        read_weights(tmp_path / "o.pth")
    ours = {**openmind(state, adaptation_plan(other)), "nnssl_format": 1, "provenance": {}}
    torch.save(ours, tmp_path / "ours.pth")
    weights = read_weights(tmp_path / "ours.pth")
    assert weights.architecture is None
    assert "no layer of PyTorch" in " ".join(weights.notes)


# -------------------------------------------------------------------- nnU-Net


@pytest.mark.parametrize("channels", [1, 4])
def test_nnunet_checkpoint(architecture: dict, tmp_path: Path, channels: int) -> None:
    network = trained_unet(architecture, channels)
    torch.save(nnunet_checkpoint(network, architecture, channels), tmp_path / "checkpoint_final.pth")
    weights = read_weights(tmp_path / "checkpoint_final.pth")
    check(weights, network, architecture, channels)
    assert weights.has_decoder
    assert not any("seg_layers" in k for k in weights.tensors)
    assert weights.architecture == architecture
    images = weights.pretraining
    assert (images.spacing, images.patch_size) == ((3.0, 1.0, 1.0), (8, 16, 16))
    assert images.channel_names == ("CT", "PET", "T1", "T2")[:channels]
    assert images.normalization == ("CTNormalization",) * channels
    assert images.intensity["0"]["percentile_99_5"] == 240
    assert weights.notes == ()


def test_a_trainer_with_another_network_than_its_plans(unet_3d: dict, tmp_path: Path) -> None:
    network = trained_unet(plain_conv(unet_3d))
    torch.save(nnunet_checkpoint(network, unet_3d, trainer="nnUNetTrainerOther"), tmp_path / "c.pth")
    weights = read_weights(tmp_path / "c.pth")
    assert weights.architecture is None
    assert "nnUNetTrainerOther did not train the network of its plans" in " ".join(weights.notes)


# -------------------------------------------------------------------- plain state dicts


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "network"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.net._orig_mod."])
def test_state_dict_under_any_one_prefix(unet_3d: dict, tmp_path: Path, holder: str | None, prefix: str) -> None:
    network = trained_unet(unet_3d)
    state = {prefix + k: v for k, v in network.state_dict().items()}
    torch.save({holder: state, "epoch": 3} if holder else state, tmp_path / "p.pth")
    weights = read_weights(tmp_path / "p.pth")
    check(weights, network, unet_3d)
    assert weights.architecture is None
    assert weights.has_decoder
    assert bool(weights.notes) == bool(prefix)


def test_a_bare_encoder(architecture: dict, tmp_path: Path) -> None:
    network = trained_unet(architecture)
    for prefix in ("", "encoder_q."):
        torch.save({prefix + k: v for k, v in network.encoder.state_dict().items()}, tmp_path / "e.pth")
        weights = read_weights(tmp_path / "e.pth")
        check(weights, network, architecture)
        assert "bare encoder" in " ".join(weights.notes)


def test_of_two_encoders_the_user_chooses(unet_3d: dict, tmp_path: Path) -> None:
    query, key = trained_unet(unet_3d, seed=1), trained_unet(unet_3d, seed=2)
    state = {f"encoder_q.{k}": v for k, v in query.encoder.state_dict().items()}
    state |= {f"encoder_k.{k}": v for k, v in key.encoder.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "p.pth")
    said = r"2 encoders: choose one with --key-prefix encoder_k\.=encoder\. or --key-prefix encoder_q\.=encoder\."
    with pytest.raises(NnsslError, match=said):
        read_weights(tmp_path / "p.pth")
    torch.save({"state_dict": state, "teacher": state}, tmp_path / "two.pth")
    with pytest.raises(NnsslError, match="several networks"):
        read_weights(tmp_path / "two.pth")


@pytest.mark.parametrize("which", ["encoder_q", "encoder", "momentum_encoder"])
def test_the_suggested_key_prefix_works(unet_3d: dict, tmp_path: Path, which: str) -> None:
    networks = {n: trained_unet(unet_3d, seed=i) for i, n in enumerate(("encoder_q", "encoder", "momentum_encoder"))}
    state = {f"{n}.{k}": v for n, net in networks.items() for k, v in net.encoder.state_dict().items()}
    torch.save(state, tmp_path / "p.pth")
    check(read_weights(tmp_path / "p.pth", f"{which}.=encoder."), networks[which], unet_3d)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("nothing.=encoder.", "no name in .* begins with 'nothing.'; the first are a.encoder.stem"),
        ("", "OLD=NEW"),
        ("a.,b.", "two names in .* become encoder.stem"),
    ],
)
def test_a_wrong_key_prefix_is_one_clear_line(unet_3d: dict, tmp_path: Path, mapping: str, said: str) -> None:
    state = trained_unet(unet_3d).state_dict()
    torch.save({f"{p}.{k}": v for p in "ab" for k, v in state.items()}, tmp_path / "p.pth")
    with pytest.raises(NnsslError, match=said):
        read_weights(tmp_path / "p.pth", mapping or "=")


def test_what_is_no_unet_is_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(2), "layer1.0.weight": torch.zeros(2)}, tmp_path / "r.pth")
    with pytest.raises(NnsslError, match=r"no encoder of nnU-Net's.*conv1\.weight, layer1\.0\.weight.*--key-prefix"):
        read_weights(tmp_path / "r.pth")
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, tmp_path / "n.pth")
    with pytest.raises(NnsslError, match="holds no weights that could be found: its top level holds epoch, args"):
        read_weights(tmp_path / "n.pth")
    with pytest.raises(MissingError, match="does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(NnsslError, match="is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(unet_3d: dict, tmp_path: Path, value: float) -> None:
    state = trained_unet(unet_3d).state_dict()
    state["encoder.stages.1.blocks.0.conv1.conv.weight"][0] = value
    torch.save(state, tmp_path / "p.pth")
    with pytest.raises(NnsslError, match=r"1 tensors hold NaN or infinity, first encoder\.stages\.1\.blocks\.0\.conv1"):
        read_weights(tmp_path / "p.pth")


def test_a_foreign_safetensors_file(unet_3d: dict, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = trained_unet(unet_3d)
    own = {k: v.clone() for k, v in network.state_dict().items() if k.startswith("encoder.")}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt", "note": "made {elsewhere"})
    check(read_weights(tmp_path / "model.safetensors"), network, unet_3d)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["sparse", "quantized", "on another device"])
def test_tensors_that_are_no_plain_numbers_are_named(kind: str) -> None:
    if kind == "quantized" and not hasattr(torch, "quantize_per_tensor"):
        pytest.skip("this torch has no quantised tensors")
    plain = torch.eye(3)
    odd = {
        "sparse": plain.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "on another device": lambda: plain.to("meta"),
    }[kind]()
    with pytest.raises(NnsslError, match=r"f\.pth: encoder\.y is no ordinary dense tensor"):
        dense_tensors({"encoder.x": plain, "encoder.y": odd, "epoch": 3}, "f.pth")
    assert list(dense_tensors({"encoder.x": plain, "epoch": 3}, "f.pth")) == ["encoder.x"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (0, None),
        (1, "head0.x"),
        (4, "head0.x, head1.x, head2.x, head3.x"),
        (5, "head0.x, head1.x, head2.x, head3.x, ..."),
    ],
)
def test_what_a_unet_has_no_place_for_is_told(parts: int, said: str | None) -> None:
    value = torch.zeros(1)
    ours = {"encoder.a.weight": value, "decoder.b.weight": value}
    others = {"decoder.seg_layers.0.weight": value} | {f"head{n}.x.weight": value for n in range(parts)}
    kept, notes = only_unet({**others, **ours})
    assert kept == ours
    assert [note.partition(": ")[2] for note in notes] == ([] if said is None else [said])


def test_description_of_foreign_files(unet_3d: dict, tmp_path: Path) -> None:
    network = trained_unet(unet_3d)
    torch.save(nnunet_checkpoint(network, unet_3d), tmp_path / "n.pth")
    text = "\n".join(describe_file(tmp_path / "n.pth"))
    for words in (
        "checkpoint of nnU-Net (nnUNetTrainer",
        "[8, 16, 24]",
        "1 (CT)",
        "[3.0, 1.0, 1.0] mm (CTNormalization)",
    ):
        assert words in text
    torch.save(openmind(spark(network), adaptation_plan(unet_3d)), tmp_path / "o.pth")
    text = "\n".join(describe_file(tmp_path / "o.pth", keys=True))
    for words in (
        "MIC-DKFZ/nnssl",
        "all_modules are taken",
        "Wald et al.",
        "encoder.stem.convs.0.conv.weight  (8, 1, 1, 3, 3)",
    ):
        assert words in text
