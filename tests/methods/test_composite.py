from __future__ import annotations

import pytest
import torch
from nnssl.trainers.run_config import make_run_config, method_config

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch, get_method
from nnssl.methods.composite import Composite, _cut
from tests.methods.cases import SHAPES, make_crops, make_method, seeded


def test_total_is_the_weighted_sum() -> None:
    method = make_method("masked_region+simclr", SHAPES["2d"], weights=[2.0, 0.1]).train()
    losses = method(method.views(make_crops(method), seeded()))
    parts = losses.terms["masked_region/loss"], losses.terms["simclr/loss"]
    assert torch.allclose(losses.total, 2.0 * parts[0] + 0.1 * parts[1])
    assert {"masked_region/hidden_mse", "simclr/contrast_accuracy"} <= set(losses.terms)


def test_parts_train_one_encoder_and_one_decoder() -> None:
    method = make_method("masked_region+denoising+byol", SHAPES["2d"])
    assert isinstance(method, Composite)
    first, second, third = method.members
    assert first.network.unet is second.network.unet
    assert third.backbone.encoder is first.network.unet.encoder
    exported = method.exported()
    assert exported.encoder is first.network.unet.encoder, "never a part's teacher"
    assert exported.decoder is first.network.unet.decoder


def test_a_weight_of_zero_switches_a_part_off() -> None:
    both = make_method("masked_region+rotation", SHAPES["2d"], weights=[1.0, 0.0]).train()
    alone = make_method("masked_region", SHAPES["2d"]).train()
    alone.load_state_dict(both.members[0].state_dict())
    views = both.views(make_crops(both), seeded())
    both(views).total.backward()
    alone(
        {k.removeprefix("masked_region/"): v for k, v in views.items() if k.startswith("masked_region/")}
    ).total.backward()
    ours, theirs = both.members[0].network.unet.encoder, alone.network.unet.encoder
    assert all(torch.allclose(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [1.0, -1.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(NnsslError, match="2 numbers"):
        make_method("masked_region+simclr", SHAPES["2d"], weights=weights)


@pytest.mark.parametrize("name", ["spark+spark", "swin_unetr_pretext+spark"])
def test_a_part_is_a_method_of_its_own(name: str) -> None:
    with pytest.raises(NnsslError, match="different methods"):
        get_method(name)


def test_settings_of_a_part_stand_under_its_name() -> None:
    run = make_run_config(
        "masked_region+simclr", {}, None, ["weights=1,0.1", "masked_region.mask_ratio=0.7", "simclr.temperature=0.3"]
    )
    config = method_config(get_method(run.method), run.options)
    assert config.weights == [1.0, 0.1]
    assert config.masked_region.mask_ratio == 0.7
    assert config.simclr.temperature == 0.3
    assert config.simclr.out == 128, "what is not set keeps its default"
    resolved = run.resolved(4)
    assert resolved.options["masked_region"]["mask_ratio"] == 0.7
    assert method_config(get_method(run.method), resolved.options) == config, "a saved run is the same run"
    with pytest.raises(NnsslError, match=r"simclr\.temperature=-1"):
        make_run_config("masked_region+simclr", {}, None, ["simclr.temperature=-1"])
    with pytest.raises(NnsslError, match="unknown setting 'simclrr'"):
        make_run_config("masked_region+simclr", {}, None, ["simclrr.temperature=1"])
    with pytest.raises(NnsslError, match=r"simclr\.heat"):
        make_run_config("masked_region+simclr", {}, None, ["simclr.heat=1"])


def test_a_preset_keeps_its_defaults_beside_a_setting() -> None:
    cls = get_method("swin_unetr_pretext")
    run = make_run_config("swin_unetr_pretext", {}, None, ["masked_region.box_share=0.2"])
    config = method_config(cls, run.options)
    assert config.masked_region.box_share == 0.2
    assert config.masked_region.mask == "box", "the preset's other choices stay"


def test_every_part_gets_the_crop_it_wants() -> None:
    method = make_method("next_slice+rotation", SHAPES["2d"], next_slice={"gap": 2})
    assert method.read_size() == (3, 24, 16)
    crops = make_crops(method)
    inside = crops.inside.clone()
    inside[0, 0, 0] = 1  # the image of the first crop begins at the second slice
    cut = _cut(CropBatch(crops.images, inside, crops.case), (16, 16))
    assert torch.equal(cut.images[0], crops.images[0, :, 1, 4:20])
    assert torch.equal(cut.images[1], crops.images[1, :, 0, 4:20])
    assert cut.inside[1].tolist() == [[0, 16], [0, 16]]
    method.views(crops, seeded())


def test_health_and_diagnostics_carry_the_parts_name() -> None:
    method = make_method("masked_region+simclr", SHAPES["2d"]).eval()
    with torch.no_grad():
        method(method.views(make_crops(method), seeded()))
    diagnostics = method.diagnostics()
    assert "simclr/embedding_std" in diagnostics
    said = method.health({**diagnostics, "simclr/embedding_std": 0.0, "val_simclr/loss": 1.0})
    assert said and said[0].startswith("simclr: ")
    assert any(line.startswith("simclr: ") for line in method.advice(5, 2))
