from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nnssl.methods import Method
from nnssl.methods.sparse_encoding import SparseEncoding
from nnssl.networks import DenseMasked, TileSparse, TimmEncoder, encode_visible
from nnssl.networks.checkpointing import Checkpointed, checkpoint_stages
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded


def gradients(method: Method) -> dict[str, torch.Tensor]:
    crops = make_crops(method)
    torch.manual_seed(3)
    method(method.views(crops, seeded())).total.backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "executor"), [("spark", "tiles"), ("spark", "dense"), ("byol", ""), ("simmim", "")])
def test_gradients_are_exactly_the_same(name: str, executor: str) -> None:
    """Dropout included, and through both of an encoder's ways, its own and the sparse one."""
    plain = make_method(name, SHAPES["3d"]).train()
    liven(plain)
    stages = plain.exported().encoder.stages
    units = [m for m in stages.modules() if hasattr(m, "all_modules") and hasattr(m, "dropout")]  # type: ignore[union-attr]
    for unit in units:  # the network of the plans has none
        unit.all_modules.insert(1, nn.Dropout3d(0.3))  # type: ignore[union-attr]
    if isinstance(plain, SparseEncoding):
        plain.use_executor(executor)  # type: ignore[arg-type]
    kept = copy.deepcopy(plain)
    assert checkpoint_stages(kept) >= 3
    wanted, got = gradients(plain), gradients(kept)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert plain.state_dict().keys() == kept.state_dict().keys()


def test_less_is_kept() -> None:
    sizes = []
    for checkpointed in (False, True):
        method = make_method("masked_region", SHAPES["3d"]).train()
        if checkpointed:
            checkpoint_stages(method)
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, kept: dict = kept) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor
            return tensor

        views = method.views(make_crops(method), seeded())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            method(views)
        sizes.append(sum(t.numel() for t in kept.values()))
    assert sizes[1] < 0.6 * sizes[0]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), nn.Sequential(nn.ReLU()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)


def test_running_statistics_move_once() -> None:
    torch.manual_seed(0)
    plain = Encoder().train()
    kept = copy.deepcopy(plain)
    assert checkpoint_stages(kept) == 2
    x = torch.randn(3, 1, 8, 8)
    for network in (plain, kept):
        network(x).square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), kept.state_dict().values()))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), kept.parameters()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        ("resnet10t", 5),  # its stem has three convolutions, a unit of its own
        ("convnext_atto", 4),
        ("mobilenetv3_small_050", 6),
    ],
)
def test_backbones_of_timm(backbone: str, stages: int) -> None:
    """Stages of the encoder, and nothing that it computes changes."""
    torch.manual_seed(0)
    plain = TimmEncoder(backbone, 1, None, nn.InstanceNorm2d, {}, nn.LeakyReLU, {}).train()
    kept = copy.deepcopy(plain)
    assert checkpoint_stages(kept) == stages
    x = torch.randn(2, 1, 64, 64)
    for network in (plain, kept):
        torch.manual_seed(1)  # dropout and stochastic depth
        sum(m.square().mean() for m in network(x)).backward()
    assert plain.state_dict().keys() == kept.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), kept.state_dict().values()))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), kept.parameters()) if a.grad is not None)
    assert sum(p.grad is not None for p in kept.parameters()) > 10
    for executor in (DenseMasked, partial(TileSparse, count=2)) if "resnet" in backbone else ():
        grads = [_sparse_gradients(network, x, executor) for network in (plain, kept)]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def _sparse_gradients(network: Any, x: torch.Tensor, executor: Any) -> list[torch.Tensor]:
    visible = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    visible[:, :, :, 0] = True
    network.zero_grad()
    sum(m.square().mean() for m in encode_visible(network, x, visible, executor)).backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


def test_a_copy_checkpoints_itself() -> None:
    network = Encoder()
    checkpoint_stages(network)
    twin = copy.deepcopy(network)
    forward = twin.stages[0].forward
    assert isinstance(forward, Checkpointed)
    assert forward.stage is twin.stages[0]
