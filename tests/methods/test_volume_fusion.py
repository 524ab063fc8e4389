from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.losses import Ranks, dice_ce
from nnssl.methods.volume_fusion import VolumeFusion
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded

STILL = {"p_flip": 0.0, "p_rotation": 0.0, "p_scaling": 0.0}


def make(shape: str = "3d", **options: object) -> VolumeFusion:
    method = make_method("volume_fusion", SHAPES[shape], **options)
    assert isinstance(method, VolumeFusion)
    return method


def test_what_is_shown_is_the_blend_that_the_classes_say() -> None:
    method = make("plain_two_channels", levels=2).eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    share = views["classes"] / 2
    assert torch.equal(views["foreground"], crops.images)
    assert torch.equal(views["background"], crops.images.roll(1, 0))
    expected = share * views["foreground"] + (1 - share) * views["background"]
    assert torch.allclose(views["fused"], expected, atol=1e-6)
    assert method.network(views["fused"]).shape == (4, 3, 16, 16, 16)


def test_only_voxels_of_both_images_count() -> None:
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    # the last crop is padded; it is the background of the first
    assert [bool(row.all()) for row in views["inside"]] == [False, True, True, False]
    inside = views["inside"]
    logits = method.network(views["fused"])
    losses = method(views)
    dice_loss, cross_entropy = dice_ce(logits, views["classes"][:, 0], inside)
    assert torch.allclose(losses.total, dice_loss + cross_entropy)
    right = logits.argmax(1, keepdim=True) == views["classes"]
    assert losses.terms["accuracy"].item() == pytest.approx(right[inside].float().mean().item())
    elsewhere = torch.where(inside, views["classes"], (views["classes"] + 1) % 5)
    assert torch.equal(method({**views, "classes": elsewhere}).total, losses.total)
    assert torch.allclose(make(dice_weight=0.0).eval()(views).total, cross_entropy)


def test_one_crop_is_fused_with_its_mirror_image() -> None:
    method = make(**STILL)
    crops = make_crops(method, batch=1)
    views = method.views(crops, seeded())
    assert torch.equal(views["background"], crops.images.flip((2, 3, 4)))
    assert torch.isfinite(method(views).total)


def test_a_single_crop_per_process_is_advised_against() -> None:
    method = make()
    assert method.advice(10, 1)
    assert not method.advice(10, 2)
    method.assign_ranks(Ranks((1, 1), 0))
    assert method.advice(10, 2)


@pytest.mark.parametrize("boxes", [(0, 3), (5, 3), (1, 1000)])
def test_impossible_numbers_of_boxes_are_refused(boxes: tuple[int, int]) -> None:
    with pytest.raises(NnsslError, match="boxes"):
        make(boxes=boxes)


def test_validation_is_a_fixed_task() -> None:
    method = make().eval()
    crops = make_crops(method)
    first, second = (method.views(crops, seeded(5)) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    method.train()
    assert not torch.equal(method.views(crops, seeded(5))["foreground"], crops.images)


@pytest.mark.parametrize("shape", SHAPES)
def test_trains_on_every_shape(shape: str) -> None:
    method = make(shape)
    liven(method)
    method(method.views(make_crops(method, batch=2), seeded())).total.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    silent = [n for n, p in method.named_parameters() if n.endswith("weight") and p.grad.abs().sum() == 0]
    assert not silent


def test_learns_the_coefficients_of_one_batch() -> None:
    method = make("2d", boxes=(8, 10), levels=2, **STILL)
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert (views["classes"] == 0).float().mean() < 0.7, "always answering 0 must not do"
    optimizer = torch.optim.AdamW(method.parameters(), 1e-2)
    for _ in range(60):
        losses = method(views)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.terms["accuracy"] > 0.88
    assert losses.terms["cross_entropy"] < 0.4


def test_exports_encoder_and_decoder_and_shows_pictures() -> None:
    method = make("plain_two_channels").eval()
    exported = method.exported()
    assert exported.encoder is method.network.unet.encoder
    assert exported.decoder is method.network.unet.decoder
    crops = make_crops(method)
    views = method.views(crops, seeded())
    pictures = method.preview(views)
    assert all(p.shape == crops.images.shape for p in pictures.values())
    coefficient = pictures["coefficient"]
    assert torch.equal(torch.isnan(coefficient), ~views["inside"].expand_as(coefficient))
    levels = [len(row[~torch.isnan(row)].unique()) for row in coefficient]
    assert levels == [len(torch.where(i, c, 0).unique()) for c, i in zip(views["classes"], views["inside"])]
