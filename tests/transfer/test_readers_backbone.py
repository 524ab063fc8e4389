"""Files of 2D image backbones: timm's classifiers and self-supervised trainings of them, into a U-Net on that backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nnssl.errors import NnsslError
from nnssl.networks import build_unet
from nnssl.transfer import Target, complete_network
from nnssl.transfer.readers.backbone import hub_name
from nnssl.transfer.reading import read_weights
from tests.transfer.test_readers_hub import cache, cached

assert cached  # a fixture

FAMILIES = ("resnet18", "convnext_atto", "efficientnet_b0", "densenet121", "pvt_v2_b0")


def architecture(backbone: str) -> dict[str, Any]:
    from nnssl.planners.sizes import SIZES
    from nnssl.planners.timm_plan import encoder_architecture

    return encoder_architecture(backbone, 1, SIZES["S"])


def classifier(name: str, channels: int = 3, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name, in_chans=channels, num_classes=10)
    for module in model.modules():  # statistics as after a training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def saved(tmp_path: Path, content: Any, name: str = "model.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def loaded(file: Path | str, backbone: str, channels: int, key_prefix: str | None = None) -> tuple[Any, Any]:
    """The U-Net after loading, and the report."""
    description = architecture(backbone)
    state, report = complete_network(read_weights(file, key_prefix), Target(description, channels), "fresh", 0)
    network = build_unet(description, channels, 2)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("seg_layers" in key for key in missing)
    return network.eval(), report


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_maps_are_those_of_timms_own_loading(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path, classifier(name).state_dict())
    network, report = loaded(file, name, 3)
    overlay = {"file": str(file), "num_classes": 10, "custom_load": False}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, num_classes=10
    )
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, wanted = network.encoder(x), theirs.eval()(x)
    assert len(ours) == len(wanted) + network.encoder.shows_image
    for a, b in zip(ours[network.encoder.shows_image :], wanted):
        assert torch.equal(a, b)
    assert report.encoder_coverage == 1
    assert any("classifier, heads" in remark for remark in report.remarks)
    assert any("ImageNet" in remark for remark in report.remarks)


def test_resnet_is_exact_for_rgb(tmp_path: Path) -> None:
    model = classifier("resnet18")
    network, report = loaded(saved(tmp_path, model.state_dict()), "resnet18", 3)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.encoder(x)[-1], model.forward_features(x))
    assert not report.adapted
    assert {"encoder stage 0", "encoder stage 4"} <= set(report.loaded)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_images_give_what_grey_rgb_gave(tmp_path: Path, channels: int) -> None:
    model = classifier("resnet18")
    network, report = loaded(saved(tmp_path, model.state_dict()), "resnet18", channels)
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        ours = network.encoder(x.expand(-1, channels, -1, -1))[-1]
        theirs = model.forward_features(x.expand(-1, 3, -1, -1))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert report.how["encoder stage 0"] == {f"3 -> {channels} input channels"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {f"sparse_encoder.sp_cnn.{k}": v for k, v in s.items()} | {"dense_decoder.c.weight": torch.ones(4, 4, 3)},
        lambda s: {"model": {f"backbone.net.{k}": v for k, v in s.items()}},
        lambda s: {"module": {f"sparse_encoder.sp_cnn.{k}": v for k, v in s.items()}, "optimizer": {}},
        lambda s: {f"module.encoder_q.{k}": v for k, v in s.items()} | {"module.queue": torch.ones(3, 5)},
    ],
)  # fmt: skip
def test_what_trainings_put_around_a_backbone(tmp_path: Path, wrap: Any) -> None:
    model = classifier("resnet18")
    bare = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    network, report = loaded(saved(tmp_path, wrap(bare)), "resnet18", 3)
    assert report.encoder_coverage == 1
    assert torch.equal(network.encoder.backbone.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert torch.equal(network.encoder.backbone.bn1.running_var, model.bn1.running_var)


def test_two_networks_in_a_file_must_be_chosen(tmp_path: Path) -> None:
    one, two = classifier("resnet18", seed=1), classifier("resnet18", seed=2)
    content = {f"encoder_q.{k}": v for k, v in one.state_dict().items()}
    content |= {f"encoder_k.{k}": v for k, v in two.state_dict().items()}
    file = saved(tmp_path, content)
    with pytest.raises(NnsslError, match=r"holds 2 such networks: choose one with --key-prefix encoder_[kq]\. or"):
        loaded(file, "resnet18", 3)
    network, _ = loaded(file, "resnet18", 3, key_prefix="encoder_k.")
    assert torch.equal(network.encoder.backbone.conv1.weight, two.conv1.weight)


@pytest.mark.parametrize(
    "target,text",
    [
        ("resnet50", r"not the target's resnet50: .* has .* is wanted"),
        ("convnext_atto", "names are none of a convnext_atto's"),
    ],
)
def test_another_backbone_is_refused(tmp_path: Path, target: str, text: str) -> None:
    file = saved(tmp_path, classifier("resnet18").state_dict())
    with pytest.raises(NnsslError, match=text):
        loaded(file, target, 1)


def test_a_shallower_file_does_not_cover(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match=r"only \d+\.\d % of the target's encoder"):
        loaded(saved(tmp_path, classifier("resnet18").state_dict()), "resnet34", 1)


def test_nnunets_own_network_takes_none(tmp_path: Path, unet_3d: dict) -> None:
    weights = read_weights(saved(tmp_path, classifier("resnet18").state_dict()))
    with pytest.raises(NnsslError, match="nnssl_plan_and_preprocess --encoder NAME"):
        complete_network(weights, Target(unet_3d, 1), "fresh", 0)


def test_names_of_timm_are_read_from_the_hubs_cache(cached: Path) -> None:
    model = classifier("resnet18")
    cache(cached, "timm/resnet18.a1_in1k", {"model.pth": model.state_dict(), "config.json": {}})
    network, report = loaded("timm:resnet18.a1_in1k", "resnet18", 1)
    assert report.encoder_coverage == 1
    assert torch.equal(network.encoder.backbone.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    with pytest.raises(NnsslError, match=r"timm/resnet34\.a1_in1k is no file here.*HF_HUB_OFFLINE is set"):
        read_weights("timm:resnet34.a1_in1k")


def test_names_that_timm_does_not_know() -> None:
    with pytest.raises(NnsslError, match="timm has no model"):
        hub_name("timm:resnet5O")
    with pytest.raises(NnsslError, match=r"no weights 'resnet18.nonsense'; there are: .*a1_in1k"):
        hub_name("timm:resnet18.nonsense")


def test_our_own_file_for_other_channels(tmp_path: Path) -> None:
    """A U-Net on a backbone pretrained on one channel, for a target of two; the decoder's last stage sees the image."""
    from nnssl.transfer.source import Weights

    description = architecture("resnet18")
    source = build_unet(description, 1, 2).eval()
    tensors = {k: v for k, v in source.state_dict().items() if "seg_layers" not in k and "decoder.encoder" not in k}
    weights = Weights("ours", tensors, description, 1)
    state, report = complete_network(weights, Target(description, 2), "pretrained", 0)
    target = build_unet(description, 2, 2).eval()
    target.load_state_dict(state, strict=False)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(target.encoder(x.expand(-1, 2, -1, -1))[-1], source.encoder(x)[-1], atol=1e-4)
    assert sum(v for k, v in report.new.items() if k.startswith("decoder")) > 0
    assert sum(v for k, v in report.loaded.items() if k.startswith("decoder")) > 0
