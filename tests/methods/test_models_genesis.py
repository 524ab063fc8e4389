from __future__ import annotations

import pytest
import torch

from nnssl.methods.models_genesis import ModelsGenesis
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded

STILL = {"p_flip": 0.0, "p_rotation": 0.0, "p_scaling": 0.0}


def make(shape: str = "3d", **options: object) -> ModelsGenesis:
    method = make_method("models_genesis", SHAPES[shape], **options)
    assert isinstance(method, ModelsGenesis)
    return method


def test_the_network_sees_the_distorted_crop_only() -> None:
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    answer = method.network(views["distorted"])
    counted = views["inside"].expand_as(answer)
    assert not counted.all(), "the batch has padding"
    expected = (answer - views["target"])[counted].square().mean()
    losses = method(views)
    assert torch.allclose(losses.total, expected)
    other = method({**views, "target": torch.zeros_like(answer)})
    assert torch.allclose(other.total, answer[counted].square().mean())
    assert losses.terms["input_mse"] == pytest.approx(
        (views["distorted"] - views["target"])[counted].square().mean().item(), rel=1e-5
    )


def test_validation_keeps_the_distortions_but_not_the_augmentation() -> None:
    method = make().eval()
    crops = make_crops(method)
    first, second = (method.views(crops, seeded(5)) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(first["target"], crops.images)
    assert not torch.equal(first["distorted"], crops.images)
    method.train()
    assert not torch.equal(method.views(crops, seeded(5))["target"], crops.images)


def test_mirroring_turns_input_and_target_alike() -> None:
    """With every distortion off, what is shown is the target, mirrored or not."""
    method = make(p_curve=0.0, p_shuffle=0.0, p_paint=0.0, p_flip=1.0, p_rotation=0.0, p_scaling=0.0).train()
    crops = make_crops(method)
    views = method.views(crops, seeded())
    assert torch.equal(views["target"], crops.images.flip((2, 3, 4)))
    assert torch.equal(views["distorted"], views["target"])
    assert method(views).terms["input_mse"] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_trains_on_every_shape(shape: str) -> None:
    method = make(shape)
    liven(method)
    method(method.views(make_crops(method, batch=1), seeded())).total.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    silent = [n for n, p in method.named_parameters() if n.endswith("weight") and p.grad.abs().sum() == 0]
    assert not silent


def test_restores_one_batch_better_than_it_came() -> None:
    method = make("2d", **STILL)
    crops = make_crops(method)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for _ in range(60):
        losses = method(method.views(crops, seeded()))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.total < 0.2 * losses.terms["input_mse"]
    assert losses.total < 0.2, "the mean of the image scores 1"


def test_exports_encoder_and_decoder_and_shows_pictures() -> None:
    method = make().eval()
    exported = method.exported()
    assert exported.encoder is method.network.unet.encoder
    assert exported.decoder is method.network.unet.decoder
    crops = make_crops(method)
    views = method.views(crops, seeded())
    pictures = method.preview(views)
    assert all(p.shape == crops.images.shape for p in pictures.values())
    shown = pictures["shown to the network, levelled"]
    for b in range(4):
        inside = views["inside"][b]
        level, crop = shown[b][inside], crops.images[b][inside]
        assert level.mean().item() == pytest.approx(crop.mean().item(), abs=1e-4)
        assert level.std().item() == pytest.approx(crop.std().item(), rel=1e-3)
        assert torch.corrcoef(torch.stack([level, views["distorted"][b][inside]]))[0, 1] > 0.999
