"""Segmentation layers fitted by a linear map: they find an answer that the features hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnssl.trainers.finetune_head import fit_heads
from torch import Tensor, nn
from torch.nn import functional as F


class TwoScales(nn.Module):
    """Stands in for a U-Net: features at full and half resolution are fixed maps of the input."""

    def __init__(self, classes: int, deep_supervision: bool = True) -> None:
        super().__init__()
        self.decoder: Any = nn.Module()
        self.decoder.seg_layers = nn.ModuleList(nn.Conv3d(5, classes, 1) for _ in range(2))
        self.decoder.deep_supervision = deep_supervision

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = torch.cat((x, 30 + 4 * x, torch.zeros_like(x[:, :1])), 1)  # correlated, far from zero, one dead
        coarse = F.avg_pool3d(fine, 2)
        self.seen = [fine, coarse]
        layers = self.decoder.seg_layers
        return [layers[1](fine), layers[0](coarse)]


def _batch(seed: int, size: int = 12) -> dict[str, Any]:
    x = torch.randn(2, 2, size, size, size, generator=torch.Generator().manual_seed(seed))
    x = F.avg_pool3d(x, 3, 1, 1) * 3
    label = torch.where(x[:, :1] + x[:, 1:] > 1, 1, torch.where(x[:, :1] - x[:, 1:] > 1, 2, 0)).float()
    return {"data": x, "target": [label, label[:, :, ::2, ::2, ::2]]}


def _dice(logits: Tensor, label: Tensor, c: int) -> float:
    a, b = logits.argmax(1) == c, label[:, 0] == c
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_linear_answer_is_found_and_holds_on_other_crops() -> None:
    unet = TwoScales(3)
    fits = fit_heads(unet, [_batch(s) for s in range(4)], torch.device("cpu"), regions=False, ignore=None)
    assert len(fits) == 2
    other = _batch(9)
    with torch.no_grad():
        logits = unet(other["data"])[0]
    assert min(_dice(logits, other["target"][0], c) for c in (1, 2)) > 0.95
    assert all(p.requires_grad and p.grad is None for p in unet.parameters())


def test_regions_get_a_sigmoid_each() -> None:
    unet = TwoScales(2)
    batches = [_batch(s) for s in range(4)]
    for b in batches:  # overlapping regions, each on one side of a plane
        x = b["data"]
        fine = torch.cat((x[:, :1] + x[:, 1:] > 1, x[:, :1] - x[:, 1:] > 1), 1).float()
        b["target"] = [fine, fine[:, :, ::2, ::2, ::2]]
    fit_heads(unet, batches, torch.device("cpu"), regions=True, ignore=None)
    with torch.no_grad():
        predicted = unet(batches[0]["data"])[0] > 0
    wanted = batches[0]["target"][0] > 0
    assert (predicted == wanted).float().mean() > 0.98


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_without_a_label_say_nothing(regions: bool) -> None:
    """Half of every crop carries a wrong label, marked as to be ignored."""
    answers = []
    for spoil in (False, True):
        torch.manual_seed(0)
        unet = TwoScales(2 if regions else 3)
        batches = [_batch(s) for s in range(3)]
        for b in batches:
            kept = [torch.zeros_like(t) for t in b["target"]]
            for k in kept:
                k[..., : k.shape[-1] // 2] = 1
            if regions:
                marked = [torch.cat((t > 0, t == 2, 1 - k), 1).float() for t, k in zip(b["target"], kept)]
                b["target"] = [
                    torch.cat((torch.where(m[:, 2:] > 0, 1 - m[:, :2], m[:, :2]), m[:, 2:]), 1) if spoil else m
                    for m in marked
                ]
            else:
                b["target"] = [torch.where(k > 0, t, torch.full_like(t, 3)) for t, k in zip(b["target"], kept)]
                if spoil:
                    b["data"][..., b["data"].shape[-1] // 2 :] += 5
        fit_heads(unet, batches, torch.device("cpu"), regions=regions, ignore=3)
        answers.append(unet.decoder.seg_layers[1].weight.detach().clone())
    assert torch.allclose(answers[0], answers[1], atol=1e-3)


@pytest.mark.parametrize("known", [0, 1, 20])
def test_too_few_labelled_voxels_leave_a_layer_as_it_was(known: int) -> None:
    """Scribbles: on a coarse level nearly nothing has a label."""
    unet = TwoScales(3)
    before = unet.decoder.seg_layers[0].weight.detach().clone()
    batch = _batch(0)
    coarse = torch.full(batch["target"][1].shape, 3.0)
    coarse.view(-1)[:known] = batch["target"][1].flatten()[:known]
    batch["target"][1] = coarse
    fine, none = fit_heads(unet, [batch], torch.device("cpu"), regions=False, ignore=3)
    assert fine is not None
    assert none is None
    assert torch.equal(unet.decoder.seg_layers[0].weight, before)


def test_without_deep_supervision_only_the_finest_layer_changes() -> None:
    unet = TwoScales(3, deep_supervision=False)
    before = unet.decoder.seg_layers[0].weight.detach().clone()
    batches = [_batch(s) for s in range(2)]
    for b in batches:
        b["target"] = b["target"][0]
    assert len(fit_heads(unet, batches, torch.device("cpu"), regions=False, ignore=None)) == 1
    assert torch.equal(unet.decoder.seg_layers[0].weight, before)


def test_in_a_real_unet_of_slices() -> None:
    """nnU-Net's 2D network: each layer gets its own resolution's features, the answer is better than a random layer's."""
    torch.manual_seed(0)
    unet = PlainConvUNet(
        1, 3, [8, 16, 32], nn.Conv2d, 3, [1, 2, 2], [1, 1, 1], 3, [1, 1], True, nn.InstanceNorm2d, {"affine": True},
        None, None, nn.LeakyReLU, {"inplace": True}, True,
    )  # fmt: skip
    batches = []
    for seed in range(4):
        x = F.avg_pool2d(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed)), 5, 1, 2) * 5
        label = (x > 0.8).float() + (x > 2).float()
        batches.append({"data": x, "target": [label, label[..., ::2, ::2]]})
    kept = {k: v.clone() for k, v in unet.state_dict().items() if "seg_layers" not in k}
    with torch.no_grad():
        first, second = unet(batches[3]["data"])
    before = [_dice(y, t, 1) for y, t in zip((first, second), batches[3]["target"])]
    fits = fit_heads(unet, batches[:3], torch.device("cpu"), regions=False, ignore=None)
    with torch.no_grad():
        fine, coarse = unet(batches[3]["data"])
    assert len(fits) == 2
    assert _dice(fine, batches[3]["target"][0], 1) > max(0.6, before[0] + 0.2)
    assert _dice(coarse, batches[3]["target"][1], 1) > before[1] + 0.1  # features of a random network, at half size
    assert all(torch.equal(v, unet.state_dict()[k]) for k, v in kept.items())
