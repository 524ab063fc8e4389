from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.methods.masked_region import MaskedRegion
from nnssl.networks import build_unet
from nnssl.transfer import (
    EncoderFile,
    Pretraining,
    Target,
    complete_network,
    pack_encoder,
    read_encoder,
    verify_nnunet_init,
    weights_of,
    write_encoder,
    write_nnunet_init,
)
from nnssl.transfer.compare import image_remarks
from nnssl.transfer.provenance import provenance
from nnssl.views import Geometry

PLANS = {
    "dataset_name": "Dataset902_Pool",
    "plans_name": "nnsslPlans",
    "transpose_forward": (0, 1, 2),
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
}


def trained(unet_3d: dict, with_decoder: bool = True) -> EncoderFile:
    """An encoder file whose every tensor differs from a fresh network's."""
    torch.manual_seed(5)
    method = MaskedRegion(build_unet(unet_3d, 1, 1), Geometry((8, 16, 16), (1.0,) * 3), 1, MaskedRegion.Config())
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter)
    exported = method.exported()
    return pack_encoder(
        exported.encoder,
        exported.decoder if with_decoder else None,
        plans=PLANS,
        configuration_name="3d_fullres",
        configuration={"architecture": unet_3d, "patch_size": [8, 16, 16], "spacing": [1.0, 1.0, 1.0]},
        channels=1,
        provenance=provenance(
            method="masked_region",
            config={"seed": 1},
            steps=10,
            plans={**PLANS, "nnssl": {"train_cases": ["secret_name"]}, "nnssl_left_out": {"secret_name": "no HU"}},
            configuration="3d_fullres",
            fold="all",
            fingerprint={"spacings": [[1.0, 1.0, 1.0]], "nnssl": {"cases": {"secret_name": "digest"}}},
            digests=["b", "a"],
            datasets={"Dataset902_Pool": 2},
        ),
        citations=["somebody 2025"],
    )


def test_round_trip_and_nothing_but_plain_values(unet_3d: dict, tmp_path: Path) -> None:
    encoder = trained(unet_3d)
    write_encoder(encoder, tmp_path / "encoder.pth")
    read = read_encoder(tmp_path / "encoder.pth")
    assert read.network_weights.keys() == encoder.network_weights.keys()
    assert all(torch.equal(read.network_weights[k], v) for k, v in encoder.network_weights.items())
    json.dumps([read.nnssl_adaptation_plan, read.provenance, read.citations])
    assert read.provenance["case_digests"] == ["a", "b"]


def test_shared_tensors_are_stored_once(unet_3d: dict, tmp_path: Path) -> None:
    write_encoder(trained(unet_3d), tmp_path / "encoder.pth")
    values = sum(
        v.numel() for k, v in trained(unet_3d).network_weights.items() if ".all_modules." not in k
    )  # every value once, 4 bytes each
    assert (tmp_path / "encoder.pth").stat().st_size < 1.5 * 4 * values + 100_000


def test_no_case_names_leave(unet_3d: dict, tmp_path: Path) -> None:
    write_encoder(trained(unet_3d), tmp_path / "encoder.pth")
    raw = (tmp_path / "encoder.pth").read_bytes()
    assert b"secret_name" not in raw
    assert str(tmp_path).encode() not in raw


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("decoder", ["fresh", "pretrained"])
def test_nnunets_own_loader_takes_the_file(unet_3d: dict, tmp_path: Path, classes: int, decoder: str) -> None:
    encoder = trained(unet_3d)
    target = Target(unet_3d, 1)
    report = write_nnunet_init(weights_of(encoder), tmp_path / "init.pth", target=target, decoder=decoder, seed=0)
    written = torch.load(tmp_path / "init.pth", weights_only=True)["network_weights"]
    network = verify_nnunet_init(tmp_path / "init.pth", written, target, classes)
    state = network.state_dict()
    for key, value in encoder.network_weights.items():
        if key.startswith("encoder.") or decoder == "pretrained":
            assert torch.equal(state[key], value), key
        if key.startswith("encoder."):
            assert torch.equal(state["decoder." + key], value), f"decoder.{key} is stale"
    assert report.encoder_coverage == 1
    assert bool(report.new) == (decoder == "fresh")
    assert sum(report.loaded.values()) + sum(report.new.values()) == sum(
        p.numel() for n, p in network.named_parameters() if "seg_layers" not in n
    )


def test_the_loaded_encoder_computes_the_same(unet_3d: dict, tmp_path: Path) -> None:
    encoder = trained(unet_3d)
    target = Target(unet_3d, 1)
    write_nnunet_init(weights_of(encoder), tmp_path / "i.pth", target=target, decoder="fresh", seed=0)
    written = torch.load(tmp_path / "i.pth", weights_only=True)["network_weights"]
    network = verify_nnunet_init(tmp_path / "i.pth", written, target)
    again = build_unet(unet_3d, 1, 1)
    again.encoder.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in encoder.network_weights.items() if k.startswith("encoder.")}
    )
    x = torch.randn(1, 1, 8, 16, 16)
    for a, b in zip(network.encoder(x), again.encoder(x)):
        assert torch.equal(a, b)


def test_a_number_of_channels_that_is_a_lie_costs_nothing(unet_3d: dict) -> None:
    """The file says 10^12 channels; its tensors have one."""
    named = Pretraining(channel_names=("T1",))
    source = replace(weights_of(trained(unet_3d)), channels=10**12, pretraining=named)
    state, _ = complete_network(source, Target(unet_3d, 1, named), "fresh", 0)
    honest, _ = complete_network(replace(source, channels=1), Target(unet_3d, 1, named), "fresh", 0)
    assert all(torch.equal(state[key], value) for key, value in honest.items())


def test_seed_decides_the_fresh_decoder(unet_3d: dict) -> None:
    encoder = weights_of(trained(unet_3d))
    key = "decoder.stages.0.convs.0.conv.weight"
    first, second, other = (complete_network(encoder, Target(unet_3d, 1), "fresh", s)[0][key] for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features_per_stage": [8, 16, 32]}, "another width"),
        ({"n_blocks_per_stage": [1, 2, 1]}, r"only \d\d\.\d % of the target's encoder would be pretrained, 100 % are"),
    ],
)
def test_what_cannot_be_carried_over_is_a_clear_error(unet_3d: dict, tmp_path: Path, change: dict, said: str) -> None:
    encoder = weights_of(trained(unet_3d))
    unet_3d["arch_kwargs"] |= change
    with pytest.raises(NnsslError, match=said):
        write_nnunet_init(encoder, tmp_path / "i.pth", target=Target(unet_3d, 1), decoder="fresh", seed=0)
    assert not list(tmp_path.iterdir()), "a refused file must not appear"


def test_a_plain_and_a_residual_encoder_are_not_mixed_up(unet_3d: dict) -> None:
    encoder = weights_of(trained(unet_3d))
    unet_3d["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    unet_3d["arch_kwargs"]["n_conv_per_stage"] = unet_3d["arch_kwargs"].pop("n_blocks_per_stage")
    with pytest.raises(NnsslError, match="residual encoder, the target's plans want a PlainConvUNet"):
        complete_network(encoder, Target(unet_3d, 1), "fresh", 0)


def test_other_strides_are_loaded_with_a_remark(unet_3d: dict) -> None:
    encoder = weights_of(trained(unet_3d))
    unet_3d["arch_kwargs"]["strides"] = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    _, report = complete_network(encoder, Target(unet_3d, 1), "fresh", 0)
    assert report.encoder_coverage == 1
    assert any("strides differ" in remark for remark in report.remarks)
    assert any("strides differ" in line for line in report.lines())


def test_less_may_be_enough_when_asked_for(unet_3d: dict) -> None:
    encoder = weights_of(trained(unet_3d))
    unet_3d["arch_kwargs"]["n_blocks_per_stage"] = [1, 2, 1]
    _, report = complete_network(encoder, Target(unet_3d, 1), "fresh", 0, min_coverage=0.3)
    assert 0.3 < report.encoder_coverage < 1


def test_differences_of_the_images_are_named(unet_3d: dict) -> None:
    ct = {"0": {"percentile_00_5": -160.0, "percentile_99_5": 240.0, "mean": 40.0, "std": 60.0}}
    target = Pretraining((4.0, 1.0, 1.0), (8, 16, 16), ("CTNormalization",), ("CT",), ct, "RAS")
    source = Pretraining((1.0, 1.0, 1.0), (8, 16, 16), ("ZScoreNormalization",), ("MRI",), {}, "LPS")
    text = " ".join(image_remarks(source, target))
    for words in (
        "4.0 times",
        "ZScoreNormalization in pretraining",
        "LPS in pretraining, RAS",
        "MRI in pretraining, CT",
    ):
        assert words in text
    assert image_remarks(target, target) == []
    other = {"0": {**ct["0"], "percentile_99_5": 1000.0}}
    assert "[-160, 1000]" in image_remarks(Pretraining(**{**target.__dict__, "intensity": other}), target)[0]


def test_a_missing_decoder_is_clear(unet_3d: dict) -> None:
    with pytest.raises(NnsslError, match="no pretrained decoder"):
        complete_network(weights_of(trained(unet_3d, with_decoder=False)), Target(unet_3d, 1), "pretrained", 0)


def test_untied_copies_are_refused(unet_3d: dict, tmp_path: Path) -> None:
    encoder = trained(unet_3d)
    key = "encoder.stem.convs.0.all_modules.0.weight"
    encoder.network_weights[key] = encoder.network_weights[key] + 1
    write_encoder(encoder, tmp_path / "e.pth")
    with pytest.raises(NnsslError, match="one convolution but differ"):
        read_encoder(tmp_path / "e.pth")


def test_adaptation_plan_follows_the_development_branchs_rules(unet_3d: dict) -> None:
    encoder = trained(unet_3d)
    plan, weights = encoder.nnssl_adaptation_plan, encoder.network_weights
    architecture = plan["architecture_plans"]
    assert architecture["arch_class_name"].endswith("ResidualEncoderUNet")
    assert set(architecture["arch_kwargs_requiring_import"]) == {"conv_op", "norm_op", "dropout_op", "nonlin"}
    assert any(k.startswith(plan["key_to_encoder"]) for k in weights)
    assert any(k.startswith(plan["key_to_stem"]) for k in weights)
    tensors = [weights[f"{k}.weight"] for k in plan["keys_to_in_proj"]]
    assert all(torch.equal(t, tensors[0]) for t in tensors)
    assert tensors[0].shape[1] == plan["pretrain_num_input_channels"]
    assert plan["key_to_lpe"] is None
    configuration = plan["pretrain_plan"]["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [1.0, 1.0, 1.0]
    assert plan["recommended_downstream_patchsize"] == configuration["patch_size"]


class Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": Malicious()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Malicious()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(NnsslError, match=r"refused|damaged"):
            read_encoder(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_damaged_foreign_and_missing_files_are_clear(unet_3d: dict, tmp_path: Path) -> None:
    write_encoder(trained(unet_3d), tmp_path / "e.pth")
    whole = (tmp_path / "e.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "yaml.pth").write_text("epochs: 3\nlr: 0.1\noptions:\n  mask: box\n")
    for name in ("short", "text", "empty", "yaml"):
        with pytest.raises(NnsslError, match="damaged or not a torch file"):
            read_encoder(tmp_path / f"{name}.pth")
    torch.save({"something": 1}, tmp_path / "other.pth")
    with pytest.raises(NnsslError, match="not an encoder file"):
        read_encoder(tmp_path / "other.pth")
    with pytest.raises(MissingError, match="does not exist"):
        read_encoder(tmp_path / "none.pth")
