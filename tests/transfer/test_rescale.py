"""Kernels brought to the size of fresh ones: another scale, the same function, another effective rate."""

from __future__ import annotations

import pytest
import torch

from nnssl.networks import build_unet
from nnssl.transfer.adapt.rescale import fresh_norm, rescale_kernels
from tests.transfer.foreign_files import flat, plain_conv, trained_unet


@pytest.mark.parametrize("change", [lambda a: a, plain_conv, flat])
def test_the_network_computes_the_same(unet_3d: dict, change) -> None:
    architecture = change(unet_3d)
    architecture["arch_kwargs"]["norm_op_kwargs"] = {"eps": 1e-12, "affine": True}
    network = trained_unet(architecture).double().eval()
    state, kernels = rescale_kernels(network.state_dict(keep_vars=True))
    twin = build_unet(architecture, 1, 3).double().eval()
    twin.load_state_dict(state)
    x = torch.randn(1, 1, *([8] if change is not flat else []), 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(network(x), twin(x), rtol=1e-6, atol=1e-6)
    assert kernels == sum(k.endswith(".conv.weight") and "all_modules" not in k for k in _first(network))
    changed = [k for k, v in twin.named_parameters() if not torch.equal(v, network.state_dict()[k])]
    assert len([k for k in changed if k.endswith(".conv.weight")]) == kernels


def _first(network: torch.nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def test_the_size_is_that_of_nnunets_initialisation(unet_3d: dict) -> None:
    torch.manual_seed(0)
    fresh = build_unet(unet_3d, 1, 3)
    ratios = [float(p.norm()) / fresh_norm(p) for n, p in fresh.named_parameters() if n.endswith(".conv.weight")]
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.05)


def test_what_has_no_norm_behind_it_stays(unet_3d: dict) -> None:
    network = trained_unet(unet_3d)
    state, _ = rescale_kernels(network.state_dict(keep_vars=True))
    for key, value in network.state_dict().items():
        if ".transpconvs." in key or ".seg_layers." in key or ".norm." in key:
            assert torch.equal(state[key], value), key


def test_both_names_of_a_kernel_stay_one_tensor(unet_3d: dict) -> None:
    state, _ = rescale_kernels(trained_unet(unet_3d).state_dict(keep_vars=True))
    assert state["encoder.stem.convs.0.conv.weight"] is state["encoder.stem.convs.0.all_modules.0.weight"]
