"""U-Nets on timm backbones: shapes, nnU-Net's conventions, and the sparse encoder on their ResNets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnssl.trainers.finetune_groups import frozen_part, layered_groups
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods import get_method
from nnssl.networks import DenseMasked, TimmEncoder, TimmUNet, build_unet, encode_visible, total_stride
from nnssl.networks.timm_backbone import create_backbone, strides_of, widths
from nnssl.networks.unet import decoder_features, decoder_width
from nnssl.views import Geometry
from tests.methods.cases import make_crops, seeded


def architecture(backbone: str, **options: Any) -> dict[str, Any]:
    """The plans' architecture block, with a narrow decoder."""
    network = create_backbone(backbone, 1, options)
    strides = strides_of(network)
    kwargs = {
        "backbone": backbone,
        "n_stages": len(strides),
        "strides": strides,
        "features_per_stage": [*(8,) * (len(strides) - 1), widths(network)[-1]],
        "n_conv_per_stage_decoder": [1] * (len(strides) - 1),
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        "backbone_kwargs": options or None,
    }
    return {
        "network_class_name": "nnssl.networks.TimmUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["norm_op", "nonlin"],
    }


def encoder(backbone: str, channels: int = 1, seed: int = 0) -> TimmEncoder:
    """An encoder whose every parameter counts: timm, too, starts some norms at zero."""
    plans = architecture(backbone)
    torch.manual_seed(seed)
    unet: Any = build_unet(plans, channels, 1)
    for module in unet.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return unet.encoder


@pytest.mark.parametrize(
    ("backbone", "channels", "options"),
    [
        ("resnet10t", 1, {}),
        ("convnext_atto", 2, {}),  # begins at a quarter of the resolution
        ("vgg11", 1, {}),  # has a map of full resolution
        ("mobilenetv3_small_050", 4, {}),
        ("swin_tiny_patch4_window7_224", 1, {"img_size": [64, 96]}),  # channels last, one image size
    ],
)
def test_outputs_are_what_nnunets_loss_expects(backbone: str, channels: int, options: dict[str, Any]) -> None:
    """nnU-Net scales the labels by 1 / cumprod(strides), all but the last."""
    a = architecture(backbone, **options)
    unet: Any = get_network_from_plans(
        a["network_class_name"], a["arch_kwargs"], a["_kw_requires_import"], channels, 3, deep_supervision=True
    )
    unet.eval()
    x = torch.randn(1, channels, 64, 96)
    outputs = unet(x)
    edges = [64]
    for stride in a["arch_kwargs"]["strides"][1:]:
        edges.append(edges[-1] // stride[0])
    assert [tuple(o.shape) for o in outputs] == [(1, 3, n, n * 96 // 64) for n in edges[:-1]]
    unet.decoder.deep_supervision = False  # what nnU-Net's trainer does before it predicts
    assert torch.equal(unet(x), outputs[0])
    assert [m.shape[1] for m in unet.encoder(x)] == unet.encoder.output_channels


def test_the_image_reaches_the_last_stage_and_every_parameter_learns() -> None:
    unet = build_unet(architecture("resnet10t"), 1, 2, deep_supervision=True)
    sum(o.square().mean() for o in unet(torch.randn(2, 1, 64, 64))).backward()  # type: ignore[misc]
    assert [n for n, p in unet.named_parameters() if p.grad is None] == []
    skips = unet.encoder(torch.randn(2, 1, 64, 64))  # type: ignore[operator]
    kept = decoder_features(unet.decoder, skips)  # type: ignore[arg-type]
    assert kept.shape == (2, decoder_width(unet.decoder), 64, 64)  # type: ignore[arg-type]
    other = decoder_features(unet.decoder, [skips[0] + 1, *skips[1:]])  # type: ignore[arg-type]
    assert not torch.allclose(kept, other)


def test_timms_own_initialisation_stays() -> None:
    """nnU-Net initialises what has an `initialize`; that would be He's for every convolution of the backbone."""
    plans = architecture("resnet10t")
    torch.manual_seed(3)
    alone = create_backbone("resnet10t", 1)
    torch.manual_seed(3)
    unet: Any = build_unet(plans, 1, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(alone.state_dict().values(), unet.encoder.backbone.state_dict().values())
    )


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_stages_hold_every_parameter_once_and_in_order(backbone: str) -> None:
    unet: Any = build_unet(architecture(backbone), 1, 1)
    stages = unet.encoder.stages
    assert len(stages) == len(widths(unet.encoder.backbone))
    found = [id(p) for stage in stages for p in stage.parameters()]
    assert sorted(found) == sorted(id(p) for p in unet.encoder.parameters())
    groups = layered_groups(unet, 0.5, 0.0)
    assert [g["lr_scale"] for g in groups] == [0.5**k for k in range(len(stages) + 1)]
    if backbone == "resnet10t":
        of = unet.encoder.stage_of_parameters()
        assert {n: of[n] for n in ("conv1.0.weight", "layer1.0.conv1.weight", "layer4.0.bn2.bias")} == {
            "conv1.0.weight": 0,
            "layer1.0.conv1.weight": 1,
            "layer4.0.bn2.bias": 4,
        }
        parameters, modules = frozen_part(unet, 2)
        assert len(parameters) == sum(1 for v in of.values() if v < 2)
        norms = [m for part in modules for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert unet.encoder.backbone.layer1[0].bn1 in norms
        assert unet.encoder.backbone.layer2[0].bn1 not in norms


def test_size_is_counted_as_nnunet_counts_it() -> None:
    """Values in the results of all convolutions; by hand for the decoder and the first layers of a ResNet-18."""
    unet: Any = build_unet(architecture("resnet18"), 1, 2)
    counted = unet.compute_conv_feature_map_size((64, 64))
    body = 64 * 32 * 32 + 4 * 64 * 16 * 16  # conv1, layer1
    body += sum(5 * c * n * n for c, n in ((128, 8), (256, 4), (512, 2)))  # four convolutions and a projection each
    decoder = sum(2 * 8 * n * n for n in (4, 8, 16, 32, 64)) + 2 * 64 * 64  # up, convolution; one segmentation layer
    assert counted == body + decoder
    assert unet.compute_conv_feature_map_size((128, 64)) == 2 * counted
    assert next(unet.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("resnet5O", "Did you mean 'resnet50'"),
        ("vit_tiny_patch16_224", "no feature pyramid"),
        ("inception_v3", "cannot take an image"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(backbone: str, words: str) -> None:
    with pytest.raises(NnsslError, match=words):
        TimmUNet(1, 2, backbone, [[1, 1], [2, 2]], [8, 8])


def test_plans_that_are_not_the_backbones_are_refused() -> None:
    a = architecture("resnet10t")["arch_kwargs"]
    with pytest.raises(NnsslError, match=r"strides .* which has \[\[1, 1\]"):
        TimmUNet(1, 2, "resnet10t", a["strides"][:-1], a["features_per_stage"][:-1])
    with pytest.raises(NnsslError, match="the last of them 512"):
        TimmUNet(1, 2, "resnet10t", a["strides"], [8] * 6)
    unet = TimmUNet(1, 2, "resnet10t", a["strides"], a["features_per_stage"])
    with pytest.raises(NnsslError, match=r"cannot be divided by the encoder's total stride \[32, 32\]"):
        unet(torch.zeros(1, 1, 64, 80))


# ---------------------------------------------------------------- sparse


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t", "seresnet18", "resnet26d"])
def test_with_everything_visible_the_sparse_encoder_is_the_encoder(backbone: str, train: bool) -> None:
    enc = encoder(backbone).double().train(train)
    x = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    before = {k: v.clone() for k, v in enc.state_dict().items()}
    dense = enc(x)
    after = {k: v.clone() for k, v in enc.state_dict().items()}
    enc.load_state_dict(before)
    sparse = encode_visible(enc, x, torch.ones(2, 1, 2, 2, dtype=torch.bool), DenseMasked)
    for a, b in zip(dense, sparse, strict=True):
        assert torch.allclose(a, b, atol=1e-9)
    for key, value in enc.state_dict().items():  # the running statistics moved alike
        assert torch.allclose(value, after[key], atol=1e-9), key


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t", "seresnet18"])
def test_hidden_voxels_reach_neither_maps_nor_statistics(backbone: str, train: bool) -> None:
    visible = torch.tensor([[[[1, 0], [1, 0]]], [[[0, 1], [1, 0]]]], dtype=torch.bool)
    hidden = ~visible.repeat_interleave(32, 2).repeat_interleave(32, 3)
    x = torch.randn(2, 1, 64, 64)
    results = []
    for filler in (0.0, 1e3, float("nan")):
        enc = encoder(backbone).train(train)
        maps = encode_visible(enc, x.masked_fill(hidden, filler), visible, DenseMasked)
        results.append((maps, enc.state_dict()))
        for m in maps:
            size = m.shape[2:]
            at_hidden = torch.nn.functional.interpolate(hidden.float(), size=size, mode="nearest").bool()
            assert not m.masked_fill(~at_hidden, 0).any()
    for maps, state in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(maps, results[0][0]))
        assert all(torch.equal(v, results[0][1][k]) for k, v in state.items()), "running statistics saw hidden voxels"


def test_statistics_are_those_of_the_visible_positions_of_all_samples() -> None:
    """Of the first norm, by hand."""
    enc = encoder("resnet18").train()
    norm: Any = enc.backbone.bn1
    norm.momentum = 1.0  # the running statistics are then the batch's
    visible = torch.tensor([[[[1, 0], [1, 0]]], [[[0, 1], [1, 0]]]], dtype=torch.bool)
    shown = visible.repeat_interleave(32, 2).repeat_interleave(32, 3)
    x = torch.randn(2, 1, 64, 64) * shown
    encode_visible(enc, x, visible, DenseMasked)
    at = visible.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, 0]
    conv: Any = enc.backbone.conv1
    values = conv(x).movedim(1, -1)[at]
    assert torch.allclose(norm.running_mean, values.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, values.var(0), rtol=1e-4)


def test_the_largest_value_is_not_the_zero_of_a_hidden_neighbour() -> None:
    """Max-pooling of negative values beside a hidden block."""
    visible = torch.tensor([[[[1, 0]]]], dtype=torch.bool)
    ops = DenseMasked(visible, (8, 16))
    x = ops.enter(torch.full((1, 1, 8, 16), -2.0))
    out = ops.pool(x, nn.MaxPool2d(3, 2, 1))
    assert torch.equal(out[..., :4], torch.full((1, 1, 4, 4), -2.0))
    assert not out[..., 4:].any()


@pytest.mark.parametrize("backbone", ["convnext_atto", "mobilenetv3_small_050", "resnetblur18"])
def test_spark_refuses_what_it_cannot_do_sparsely(backbone: str) -> None:
    unet = build_unet(architecture(backbone), 1, 1)
    cls = get_method("spark")
    with pytest.raises(NnsslError, match="for which sparse encoding has no counterpart"):
        cls(unet, Geometry((64, 64), (1.0, 1.0)), 1, cls.Config())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("byol", {"hidden": 16, "out": 8}),
        ("simsiam", {}),
        ("simclr", {}),
        ("masked_region", {}),
        ("simmim", {}),
        ("spark", {}),
        ("spark", {"decoder_type": "light"}),
    ],
)
def test_methods_train_on_a_timm_backbone(name: str, options: dict[str, Any]) -> None:
    """A step moves every trainable parameter, and what is exported is the plans' encoder."""
    torch.manual_seed(0)
    cls = get_method(name)
    unet: Any = build_unet(architecture("resnet10t"), 1, 1)
    method = cls(unet, Geometry((64, 64), (1.0, 1.0)), 1, cls.Config(**options))
    keys = set(unet.encoder.state_dict())
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    losses = method(method.views(make_crops(method, 4), seeded()))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    optimiser.step()
    method.after_step(0.5)
    exported = method.exported()
    assert set(exported.encoder.state_dict()) == keys
    assert total_stride(exported.encoder) == (32, 32)
