from __future__ import annotations

import pytest
import torch

from nnssl.methods.smit import SMIT
from nnssl.networks import ReconstructionUNet, VoxelHead
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded
from tests.methods.spread import assert_spreading_changes_nothing
from tests.oracles import distillation as oracle

SMALL = {"hidden": 32, "bottleneck": 16, "prototypes": 12}


def make(shape: str = "2d", alive: bool = True, **options: object) -> SMIT:
    method = make_method("smit", SHAPES[shape], **{**SMALL, **options})
    assert isinstance(method, SMIT)
    if alive:
        liven(method)
    return method.train()


@pytest.mark.parametrize("reconstruct", ["unet", "linear"])
@pytest.mark.parametrize("shape", ["2d", "plain_two_channels"])
def test_losses_by_hand(shape: str, reconstruct: str) -> None:
    method = make(shape, reconstruct=reconstruct).eval()
    views = method.views(make_crops(method), seeded())
    losses = method(views)
    errors, scores = [], []
    assert method.norm is not None
    for k, image in enumerate(method.shown(views), start=1):
        if isinstance(method.voxels, ReconstructionUNet):
            answer = method.voxels(image)
        else:
            answer = method.voxels(method.backbone.feature_map(image))
        hidden = ~views[f"visible_{k}"]
        for axis in range(2, image.ndim):
            hidden = hidden.repeat_interleave(4, axis)
        counted = (hidden & views[f"inside_{k}"]).expand_as(image)
        errors.append((answer - views[f"view_{k}"]).abs()[counted])
        scores.append(method.head(method.norm(method.backbone(image)))[1])
    _, targets = method.teach([views["view_1"], views["view_2"]])
    itd = oracle.view_distillation(torch.stack(scores, 1).detach().numpy(), targets.numpy(), 0.1)
    assert losses.terms["mip"].item() == pytest.approx(torch.cat(errors).mean().item(), rel=1e-4)
    assert losses.terms["itd"].item() == pytest.approx(itd, rel=1e-4)
    t = {k: v.item() for k, v in losses.terms.items()}
    assert losses.total.item() == pytest.approx(t["mip"] + 0.1 * t["mpd"] + 0.1 * t["itd"], rel=1e-5)


def test_the_answer_does_not_depend_on_what_is_hidden() -> None:
    method = make("3d")
    views = method.views(make_crops(method), seeded())
    seen = views["visible_1"].repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    assert (~seen).float().mean().item() == pytest.approx(0.7, abs=0.02)
    noisy = {**views, "view_1": torch.where(seen, views["view_1"], torch.randn_like(views["view_1"]))}
    answers = [method.preview(v)["network output"] for v in (views, noisy)]
    assert torch.equal(*answers)


def test_views_are_not_changed_in_brightness_unless_asked_for() -> None:
    method = make(p_flip=0, p_rotation=0, crop_share=(1.0, 1.0))
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert torch.allclose(views["view_1"][:-1], crops.images[:-1], atol=1e-4)
    bright = make(p_flip=0, p_rotation=0, crop_share=(1.0, 1.0), p_intensity=1.0).views(crops, seeded())
    assert not torch.allclose(bright["view_1"][:-1], crops.images[:-1], atol=0.05)


def test_decoder_and_encoder_that_are_exported_belong_together() -> None:
    method = make()
    exported = method.exported()
    assert exported.encoder is method.backbone.encoder
    assert isinstance(method.voxels, ReconstructionUNet)
    assert exported.decoder is method.voxels.unet.decoder
    assert exported.decoder.encoder is exported.encoder, "the decoder was trained with this encoder"
    teacher = make(export="teacher").exported()
    assert teacher.decoder is None
    linear = make(reconstruct="linear")
    assert isinstance(linear.voxels, VoxelHead)
    assert linear.exported().decoder is None
    assert linear.exported().encoder is linear.backbone.encoder
    assert make(reconstruct="linear", export="teacher").exported().encoder is not linear.teacher_encoder


def test_nothing_is_trained_that_is_not_used() -> None:
    linear = {k.split(".")[0] for k, p in make(reconstruct="linear").named_parameters() if p.requires_grad}
    assert linear == {"backbone", "head", "token", "patch_head", "voxels"}
    assert not [k for k, _ in make(reconstruct="linear").named_parameters() if "decoder" in k]
    assert not [k for k, _ in make().named_parameters() if "seg_layers" in k]


def test_every_part_has_a_gradient_even_when_it_does_not_count() -> None:
    method = make(patch_weight=0, global_weight=0)
    method(method.views(make_crops(method), seeded())).total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert method.head.prototypes.weight.grad.abs().max() == 0  # type: ignore[union-attr]
    assert method.token.values.grad.abs().max() > 0  # type: ignore[union-attr]


def test_preview() -> None:
    method = make("3d")
    views = method.views(make_crops(method), seeded())
    pictures = method.preview(views)
    first = ["view 1", "view 1, student", "network output", "hidden blocks filled in"]
    assert list(pictures) == [*first, "view 2", "view 2, student"]
    shown = ~torch.isnan(pictures["view 1, student"])
    assert torch.equal(pictures["hidden blocks filled in"][shown], pictures["view 1"][shown])


@pytest.mark.parametrize("options", [{}, {"reconstruct": "linear", "shared_head": True}])
def test_a_batch_spread_over_processes(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    method = make(**options)
    views = method.views(make_crops(method), seeded())
    assert_spreading_changes_nothing(monkeypatch, method, views, (3, 1))


def test_hidden_voxels_are_learnt() -> None:
    method = make("2d", alive=False)
    views = method.views(make_crops(method), seeded())
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 3e-3)
    mip = []
    for number in range(25):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        method.after_step((number + 1) / 25)
        mip.append(losses.terms["mip"].item())
    assert mip[-1] < 0.8 * mip[0]
