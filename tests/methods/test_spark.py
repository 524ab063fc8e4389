from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch
from nnssl.methods.spark import SparK
from nnssl.networks import build_unet
from nnssl.views import Geometry, expand_blocks
from tests.losses.two_ranks import play_ranks
from tests.methods.cases import SHAPES, Shape, architecture, liven, make_crops, make_method, seeded
from tests.oracles import block_target, masked_mse

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
both_decoders = pytest.mark.parametrize("decoder_type", ["unet", "light"])


def make(shape: Shape = SHAPES["2d"], **options: Any) -> SparK:
    return make_method("spark", shape, **options)  # type: ignore[return-value]


@every_shape
@both_decoders
def test_the_first_loss_is_about_one(shape: Shape, decoder_type: str) -> None:
    method = make(shape, decoder_type=decoder_type)
    loss = method(method.views(make_crops(method), seeded())).total.item()
    assert loss == pytest.approx(1.0, abs=0.02)


@every_shape
@both_decoders
def test_every_parameter_gets_a_gradient(shape: Shape, decoder_type: str) -> None:
    method = make(shape, decoder_type=decoder_type)
    liven(method)
    method(method.views(make_crops(method), seeded())).total.backward()
    assert not [n for n, p in method.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@every_shape
def test_a_decoder_that_ends_early(shape: Shape) -> None:
    method = make(shape, decoder_type="light", light_stop=1)
    views = method.views(make_crops(method), seeded())
    assert method(views).total.item() == pytest.approx(1.0, abs=0.05)
    liven(method)
    method(views).total.backward()
    assert not [n for n, p in method.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert method.reconstruct(views["image"], views["visible"]).shape == views["image"].shape


def test_where_the_light_decoder_cannot_end() -> None:
    with pytest.raises(NnsslError, match="can end at the scales 0 to 1"):
        make(decoder_type="light", light_stop=2)
    with pytest.raises(ValueError, match="goes with decoder_type=light"):
        make(light_stop=1)


@pytest.mark.parametrize(
    "options", [{}, {"decoder_type": "light"}, {"decoder_type": "light", "light_stop": 1}, {"target": "global"}]
)
def test_overfits_one_batch(options: dict) -> None:
    method = make(p_flip=0, p_rotation=0, p_scaling=0, **options)
    batch = make_crops(method, batch=2)
    optimizer = torch.optim.AdamW(method.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        loss = method(method.views(batch, seeded())).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@every_shape
def test_noise_in_hidden_blocks_changes_no_bit_of_the_answer(shape: Shape) -> None:
    method = make(shape).eval()
    liven(method)
    views = method.views(make_crops(method), seeded())
    image, visible = views["image"], expand_blocks(views["visible"], method.block)
    noisy = torch.where(visible, image, 100 * torch.randn_like(image))
    assert torch.equal(method.reconstruct(image, views["visible"]), method.reconstruct(noisy, views["visible"]))
    moved = torch.where(visible, image + 0.1 * torch.randn_like(image), image)
    assert not torch.equal(method.reconstruct(image, views["visible"]), method.reconstruct(moved, views["visible"]))


def test_every_sample_hides_the_same_number_of_blocks() -> None:
    method = make(SHAPES["anisotropic"], mask_ratio=0.75, block=[2, 8, 4])
    visible = method.views(make_crops(method, batch=5), seeded())["visible"]
    assert visible.shape == (5, 1, 3, 2, 6)
    assert visible.flatten(1).sum(1).tolist() == [9] * 5
    assert len({tuple(row.flatten().tolist()) for row in visible}) == 5


@pytest.mark.parametrize("target", ["block", "global"])
def test_loss_is_the_error_on_hidden_image_voxels(target: str) -> None:
    method = make(SHAPES["plain_two_channels"], target=target).eval()
    liven(method, 0.3)
    views = method.views(make_crops(method), seeded())
    image, inside = views["image"], views["inside"]
    assert not inside.all()
    hidden = inside & ~expand_blocks(views["visible"], method.block)
    wanted = image.numpy()
    if target == "block":
        wanted = block_target.normalise_blocks(wanted, inside.numpy(), method.block, method.config.std_floor)
    with torch.no_grad():
        answer = method.reconstruct(image, views["visible"]).numpy()
        loss = method(views).total.item()
    assert loss == pytest.approx(masked_mse.masked_mse(answer, wanted, hidden.numpy()), rel=1e-4)


@both_decoders
def test_constant_blocks_and_padding_give_a_finite_loss_and_gradient(decoder_type: str) -> None:
    method = make(decoder_type=decoder_type)
    batch = make_crops(method, batch=3)
    images = batch.images.clone()
    images[0] = -1.7  # air everywhere
    images[1, :, :8] = 3.0
    inside = batch.inside.clone()
    inside[2, :, 1] = 0  # a crop beside its image
    losses = method(method.views(CropBatch(images, inside, batch.case), seeded()))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    views = method.eval().views(CropBatch(images, inside, batch.case), seeded())
    assert all(torch.isfinite(p).all() for k, p in method.preview(views).items() if k != "shown to the network")


@every_shape
@both_decoders
def test_exports_trained_tensors_under_every_name(shape: Shape, decoder_type: str) -> None:
    stock = build_unet(architecture(shape), shape.channels, 1)
    method = make(shape, decoder_type=decoder_type)
    before = {k: v.clone() for k, v in method.exported().encoder.state_dict().items()}
    liven(method)  # zero-initialised residual branches would get no gradient in one step
    start = {k: v.clone() for k, v in method.exported().encoder.state_dict().items()}
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    method(method.views(make_crops(method), seeded())).total.backward()
    optimizer.step()
    exported = method.exported()
    after = exported.encoder.state_dict()
    assert list(after) == list(before) == list(stock.encoder.state_dict())
    assert sum(p.numel() for p in exported.encoder.parameters()) == sum(p.numel() for p in stock.encoder.parameters())
    weights = [k for k, v in after.items() if v.ndim > 1]
    assert all(not torch.equal(after[k], start[k]) for k in weights)
    for key in [k for k in after if ".all_modules.0." in k]:
        assert torch.equal(after[key], after[key.replace(".all_modules.0.", ".conv.")])
    if decoder_type == "light":
        assert exported.decoder is None
        assert not any("transpconvs" in n or "seg_layers" in n for n, _ in method.named_parameters())
    else:
        assert exported.decoder is not None
        assert exported.decoder.encoder is exported.encoder
        keys = [k for k in stock.decoder.state_dict() if "seg_layers" not in k]
        assert list(exported.decoder.state_dict()) == keys


def test_two_processes_agree_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make().eval()
    views = method.views(make_crops(method, batch=3), seeded())
    expected = method(views).total.item()

    def work(ranks: Any, first: int, last: int) -> float:
        mine = make().eval()
        mine.load_state_dict(method.state_dict())
        mine.assign_ranks(ranks)
        return mine({k: v[first:last] for k, v in views.items()}).total.item()

    losses = play_ranks(monkeypatch, (2, 1), work)
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-5)


def test_validation_is_a_fixed_task() -> None:
    method = make().eval()
    batch = make_crops(method)
    first, second = (method.views(batch, seeded(5)) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(first["image"], batch.images)
    assert not torch.equal(method.train().views(batch, seeded(5))["image"], batch.images)


def test_preview_restores_each_blocks_brightness() -> None:
    method = make().eval()
    batch = make_crops(method)
    views = method.views(CropBatch(batch.images + 50, batch.inside, batch.case), seeded())
    pictures = method.preview(views)
    assert pictures["network output"][:3].mean() == pytest.approx(50, abs=1)
    assert all(p.shape == views["image"].shape for p in pictures.values())
    hidden = ~expand_blocks(views["visible"], method.block)
    assert torch.equal(torch.isnan(pictures["shown to the network"]), hidden)


@pytest.mark.parametrize("block", [2, [4, 6], [24, 16]])
def test_blocks_must_be_whole_strides_and_leave_a_choice(block: object) -> None:
    with pytest.raises(NnsslError, match="block="):
        make(block=block)


def test_a_patch_that_cannot_be_divided_is_refused() -> None:
    shape = SHAPES["2d"]
    unet = build_unet(architecture(shape), 1, 1)
    with pytest.raises(NnsslError, match="total stride"):
        SparK(unet, Geometry((24, 18), shape.spacing), 1, SparK.Config())


def test_an_encoder_that_cannot_be_sparse_is_refused_at_the_start() -> None:
    shape = SHAPES["2d"]
    unet: Any = build_unet(architecture(shape), 1, 1)
    unet.encoder.stem.convs[0].all_modules[1] = nn.GroupNorm(1, 8)
    with pytest.raises(NnsslError, match="GroupNorm"):
        SparK(unet, Geometry(shape.size, shape.spacing), 1, SparK.Config())


def test_advice_and_health_speak_only_when_something_is_wrong() -> None:
    assert not make().advice(100, 2)
    assert "5 positions" in make(mask_ratio=0.8).advice(100, 2)[0]
    method = make()
    assert not method.health({"epoch": 10, "val_hidden_mse": 0.7, "val_flat_mse": 0.9})
    assert not method.health({"epoch": 0, "val_hidden_mse": 0.9, "val_flat_mse": 0.9})
    assert "flat" in method.health({"epoch": 10, "val_hidden_mse": 0.9, "val_flat_mse": 0.9})[0]


@pytest.mark.parametrize("target", ["block", "global"])
def test_the_flat_answer_is_a_yardstick(target: str) -> None:
    method = make(target=target).eval()
    views = method.views(make_crops(method), seeded())
    nn.init.zeros_(method.head.weight)
    terms = method(views).terms
    assert terms["flat_mse"] == terms["hidden_mse"] > 0.5
    assert not terms["flat_mse"].requires_grad


def test_the_light_decoder_has_the_width_that_was_asked_for() -> None:
    assert make(decoder_type="light", light_width=32).decoder.widths == [8, 16, 32]
