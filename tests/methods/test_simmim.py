from __future__ import annotations

from typing import Any

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods.simmim import SimMIM
from nnssl.networks import build_unet
from nnssl.views import Geometry, expand_blocks
from tests.methods.cases import SHAPES, Shape, architecture, liven, make_crops, make_method, seeded

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


def make(shape: Shape = SHAPES["2d"], **options: Any) -> SimMIM:
    return make_method("simmim", shape, **options)  # type: ignore[return-value]


@every_shape
def test_every_parameter_gets_a_gradient(shape: Shape) -> None:
    method = make(shape)
    liven(method)
    method(method.views(make_crops(method), seeded())).total.backward()
    assert not [n for n, p in method.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@every_shape
def test_the_first_loss_is_that_of_answering_the_mean(shape: Shape) -> None:
    method = make(shape)
    views = method.views(make_crops(method), seeded())
    hidden = (views["inside"] & ~expand_blocks(views["visible"], method.block)).expand_as(views["image"])
    expected = views["image"][hidden].abs().mean().item()
    assert method(views).total.item() == pytest.approx(expected, rel=0.03)


def test_overfits_one_batch() -> None:
    method = make(p_flip=0, p_rotation=0, p_scaling=0)
    batch = make_crops(method)
    optimizer = torch.optim.AdamW(method.parameters(), 5e-3)
    losses = []
    for _ in range(50):
        loss = method(method.views(batch, seeded())).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("block", [None, [2, 8, 8]])
def test_the_encoder_sees_the_token_in_hidden_blocks(block: list[int] | None) -> None:
    method = make(SHAPES["anisotropic"], block=block).eval()
    views = method.views(make_crops(method), seeded())
    seen: list[torch.Tensor] = []
    method.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method.reconstruct(views["image"], views["visible"])
    token = method.token.values.view(1, *method.block)
    for b, *place in torch.ones_like(views["visible"][:, 0]).nonzero().tolist():
        voxels = (b, slice(None), *(slice(i * n, (i + 1) * n) for i, n in zip(place, method.block)))
        shown = bool(views["visible"][(b, 0, *place)])
        assert torch.equal(seen[0][voxels], views["image"][voxels] if shown else token)


def test_noise_in_hidden_blocks_changes_no_bit_of_the_answer() -> None:
    method = make().eval()
    liven(method)
    views = method.views(make_crops(method), seeded())
    image, visible = views["image"], expand_blocks(views["visible"], method.block)
    noisy = torch.where(visible, image, torch.full_like(image, torch.nan))
    assert torch.equal(method.reconstruct(image, views["visible"]), method.reconstruct(noisy, views["visible"]))


def test_loss_is_the_absolute_error_on_hidden_image_voxels() -> None:
    method = make(SHAPES["plain_two_channels"]).eval()
    liven(method, 0.3)
    views = method.views(make_crops(method), seeded())
    assert not views["inside"].all()
    answer = method.reconstruct(views["image"], views["visible"])
    counted = (views["inside"] & ~expand_blocks(views["visible"], method.block)).expand_as(answer)
    expected = (answer - views["image"])[counted].abs().mean()
    torch.testing.assert_close(method(views).total, expected)


def test_exports_the_encoder_alone() -> None:
    method = make()
    exported = method.exported()
    stock = build_unet(architecture(SHAPES["2d"]), 1, 1)
    assert exported.decoder is None
    assert list(exported.encoder.state_dict()) == list(stock.encoder.state_dict())
    assert {n.split(".")[0] for n, _ in method.named_parameters()} == {"encoder", "head", "token"}


def test_validation_is_a_fixed_task_and_training_is_not() -> None:
    method = make().eval()
    batch = make_crops(method)
    first, second = (method.views(batch, seeded(5)) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(first["image"], batch.images)
    assert not torch.equal(method.train().views(batch, seeded(5))["image"], batch.images)


def test_preview_hides_what_is_hidden() -> None:
    method = make().eval()
    views = method.views(make_crops(method), seeded())
    pictures = method.preview(views)
    hidden = ~expand_blocks(views["visible"], method.block)
    assert torch.equal(torch.isnan(pictures["shown to the network"]), hidden)
    assert all(p.shape == views["image"].shape for p in pictures.values())


def test_blocks_may_be_finer_than_the_stride_but_must_divide_the_patch() -> None:
    assert make(block=2).block == (2, 2)
    with pytest.raises(NnsslError, match="block="):
        make(block=5)


def test_a_patch_that_cannot_be_divided_is_refused() -> None:
    shape = SHAPES["2d"]
    with pytest.raises(NnsslError, match="total stride"):
        SimMIM(build_unet(architecture(shape), 1, 1), Geometry((24, 18), shape.spacing), 1, SimMIM.Config())
