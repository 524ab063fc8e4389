from __future__ import annotations

import pytest
import torch

from nnssl.errors import NnsslError
from nnssl.methods import CropBatch, get_method
from nnssl.methods.masked_region import MaskedRegion
from nnssl.networks import build_unet
from nnssl.views import Geometry

SIZE = (8, 16, 16)


def make(unet_3d: dict, channels: int = 1, **options: object) -> MaskedRegion:
    torch.manual_seed(0)
    geometry = Geometry(SIZE, (3.0, 1.0, 1.0))
    return MaskedRegion(build_unet(unet_3d, channels, 1), geometry, channels, MaskedRegion.Config(**options))


def crops(channels: int = 1, seed: int = 0) -> CropBatch:
    images = torch.randn(2, channels, *SIZE, generator=torch.Generator().manual_seed(seed))
    inside = torch.tensor([[[0, 8], [0, 16], [0, 16]], [[1, 7], [0, 16], [4, 16]]])
    return CropBatch(images, inside, torch.zeros(2, dtype=torch.long))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_default_block_is_the_total_stride(unet_3d: dict) -> None:
    assert make(unet_3d).block == (2, 4, 4)
    assert make(unet_3d, block=2).block == (2, 2, 2)
    assert make(unet_3d, block=[8, 8, 4]).block == (8, 8, 4)


@pytest.mark.parametrize("block", [3, [2, 4], [8, 16, 16], [2, 5, 4]])
def test_a_block_that_does_not_fit_is_refused(unet_3d: dict, block: object) -> None:
    with pytest.raises(NnsslError, match="block"):
        make(unet_3d, block=block)


def test_noise_in_hidden_voxels_changes_nothing_the_network_sees(unet_3d: dict) -> None:
    method = make(unet_3d).eval()
    views = method.views(crops(), generator())
    noisy = {**views, "target": torch.where(views["visible"], views["target"], torch.randn(2, 1, *SIZE))}
    seen = [method.network(v["target"] * v["visible"]) for v in (views, noisy)]
    assert torch.equal(*seen)


def test_loss_counts_hidden_image_voxels_only(unet_3d: dict) -> None:
    method = make(unet_3d).eval()
    views = method.views(crops(), generator())
    prediction = method.network(views["target"] * views["visible"])
    counted = (views["inside"] & ~views["visible"]).expand_as(prediction)
    expected = (prediction - views["target"])[counted].square().mean()
    assert torch.allclose(method(views).total, expected)
    assert not views["inside"].all(), "the batch has padding"


def test_validation_views_are_fixed_and_not_augmented(unet_3d: dict) -> None:
    method = make(unet_3d).eval()
    batch = crops()
    first, second = (method.views(batch, generator(5)) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(first["target"], batch.images)
    method.train()
    augmented = method.views(batch, generator(5))
    assert not torch.equal(augmented["target"], batch.images)


def test_box_variant_counts_region_and_whole(unet_3d: dict) -> None:
    method = make(unet_3d, mask="box", box_share=0.2).eval()
    views = method.views(crops(), generator())
    hidden = (~views["visible"]).float().mean().item()
    assert 0.1 < hidden < 0.35
    losses = method(views)
    assert torch.allclose(losses.total, losses.terms["hidden_mse"] + losses.terms["visible_mse"])
    assert set(make(unet_3d)(views).terms) == {"hidden_mse"}


def test_gradient_reaches_every_parameter(unet_3d: dict) -> None:
    method = make(unet_3d, channels=2)
    # nnU-Net starts the last norm of each residual branch at zero, which would hide a missing connection
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    method(method.views(crops(channels=2), generator())).total.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    weights = [n for n, p in method.named_parameters() if n.endswith("weight") and p.grad.abs().sum() == 0]
    assert not weights


@pytest.mark.parametrize("options", [{}, {"mask": "box", "box_share": 0.2}])
def test_overfits_one_batch(unet_3d: dict, options: dict) -> None:
    method = make(unet_3d, p_flip=0, p_rotation=0, p_scaling=0, **options)
    smooth = torch.nn.functional.avg_pool3d(crops().images, 5, 1, 2) * 4
    batch = CropBatch(smooth, crops().inside, crops().case)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = method(method.views(batch, generator())).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_exports_the_plans_own_encoder_and_decoder(unet_3d: dict) -> None:
    exported = make(unet_3d).exported()
    stock = build_unet(unet_3d, 1, 4)
    assert set(exported.encoder.state_dict()) == set(stock.encoder.state_dict())
    assert exported.decoder is not None
    ours = {k for k in exported.decoder.state_dict() if "seg_layers" not in k}
    assert ours == {k for k in stock.decoder.state_dict() if "seg_layers" not in k}


def test_preview_hides_what_is_hidden(unet_3d: dict) -> None:
    method = make(unet_3d).eval()
    views = method.views(crops(), generator())
    pictures = method.preview(views)
    assert torch.equal(torch.isnan(pictures["shown to the network"]), ~views["visible"].expand(2, 1, *SIZE))
    assert all(p.shape == (2, 1, *SIZE) for p in pictures.values())


def test_methods_are_found_by_name() -> None:
    assert get_method("masked_region") is MaskedRegion
    with pytest.raises(NnsslError, match="Did you mean 'masked_region'"):
        get_method("maskedregion")


def test_works_in_2d(unet_3d: dict) -> None:
    arch = unet_3d
    kwargs = arch["arch_kwargs"]
    kwargs |= {
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
    }
    method = MaskedRegion(build_unet(arch, 1, 1), Geometry((16, 24), (1.0, 1.0)), 1, MaskedRegion.Config())
    batch = CropBatch(torch.randn(3, 1, 16, 24), torch.tensor([[[0, 16], [0, 24]]] * 3), torch.zeros(3))
    method(method.views(batch, generator())).total.backward()
