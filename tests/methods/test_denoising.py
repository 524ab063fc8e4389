from __future__ import annotations

import pytest
import torch

from nnssl.methods.denoising import Denoising
from nnssl.views import inside_box
from tests.methods.cases import SHAPES, make_crops, make_method, seeded


def make(shape: str = "2d", **options: object) -> Denoising:
    method = make_method("denoising", SHAPES[shape], **options)
    assert isinstance(method, Denoising)
    return method


@pytest.mark.parametrize("noise", ["salt_and_pepper", "gaussian", "both"])
def test_noise_is_what_was_asked_for(noise: str) -> None:
    method = make(noise=noise, share=0.2, sigma=0.3).eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert torch.equal(views["clean"], crops.images)
    image, noisy = (views[k][:3].flatten(1) for k in ("clean", "noisy"))  # crops without padding
    difference = noisy - image
    extreme = (noisy == noisy.amin(1, keepdim=True)) | (noisy == noisy.amax(1, keepdim=True))
    if noise == "gaussian":
        assert difference.std().item() == pytest.approx(0.3, rel=0.1)
        assert extreme.sum() == 6
    else:
        assert extreme.float().mean().item() == pytest.approx(0.2, abs=0.04)
        assert (difference[~extreme] == 0).all() == (noise == "salt_and_pepper")


def test_padding_is_neither_disturbed_nor_scored() -> None:
    method = make(noise="both").eval()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    padding = ~inside_box(crops.inside, (24, 16))
    assert padding.any()
    assert (views["noisy"][padding] == 0).all()
    elsewhere = {**views, "clean": torch.where(padding, 9.0, views["clean"])}
    assert torch.equal(method(views).total, method(elsewhere).total)


@pytest.mark.parametrize("shape", ["2d", "plain_two_channels"])
def test_every_voxel_of_the_image_is_scored(shape: str) -> None:
    method = make(shape).eval()
    views = method.views(make_crops(method), seeded())
    losses = method(views)
    counted = views["inside"].expand_as(views["clean"])
    for x, value in ((method.network(views["noisy"]), losses.total), (views["noisy"], losses.terms["noise_mse"])):
        assert value.item() == pytest.approx((x - views["clean"])[counted].square().mean().item(), rel=1e-5)


def test_validation_is_a_fixed_task_and_training_augments() -> None:
    method = make().eval()
    crops = make_crops(method)
    first, again = (method.views(crops, seeded(5)) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(method.train().views(crops, seeded(5))["clean"], crops.images)


def test_learns_to_remove_noise_from_images_it_has_not_seen() -> None:
    method = make(p_flip=0, p_rotation=0, p_scaling=0)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for step in range(60):
        losses = method(method.views(make_crops(method, seed=step), seeded(step)))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.terms["mse"] < 0.6 * losses.terms["noise_mse"]


def test_exports_encoder_and_decoder() -> None:
    assert make().exported().decoder is not None
