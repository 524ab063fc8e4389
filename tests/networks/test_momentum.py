from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.networks.momentum import MomentumCopy, cosine_momentum
from tests.methods.cases import SHAPES, make_method


class Tied(nn.Module):
    """One layer under two names, as nnU-Net registers its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(3, 3)
        self.all_modules = nn.Sequential(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.all_modules(x)


def other(online: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
    return online


def test_starts_equal_and_follows() -> None:
    online = nn.Linear(3, 2)
    teacher = MomentumCopy(online)
    start = online.weight.detach().clone()
    assert torch.equal(teacher.module.weight, start)  # type: ignore[arg-type]
    other(online)
    assert torch.equal(teacher.module.weight, start), "a copy, not the same tensors"  # type: ignore[arg-type]
    teacher.update(online, 0.75)
    assert torch.allclose(teacher.module.weight, start + 0.25)  # type: ignore[arg-type]
    teacher.update(online, 1.0)
    assert torch.allclose(teacher.module.weight, start + 0.25)  # type: ignore[arg-type]
    teacher.update(online, 0.0)
    assert torch.allclose(teacher.module.weight, online.weight)  # type: ignore[arg-type]


def test_never_sees_a_gradient() -> None:
    teacher = MomentumCopy(nn.Linear(3, 2))
    x = torch.randn(4, 3, requires_grad=True)
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())


def test_layers_under_two_names_stay_one() -> None:
    online = Tied()
    teacher = MomentumCopy(online)
    assert teacher.module.conv is teacher.module.all_modules[0]  # type: ignore[index]
    before = online.conv.weight.detach().clone()
    teacher.update(other(online), 0.5)
    assert torch.allclose(teacher.module.conv.weight, before + 0.5), "moved once"  # type: ignore[union-attr]


def test_every_parameter_of_an_encoder_follows() -> None:
    encoder = make_method("simclr", SHAPES["3d"]).exported().encoder
    teacher = MomentumCopy(encoder)
    teacher.update(other(encoder), 0.0)
    ours = teacher.module.state_dict()
    assert all(torch.allclose(v, ours[k]) for k, v in encoder.state_dict().items())


def test_running_statistics_are_its_own() -> None:
    online = nn.BatchNorm1d(2)
    teacher = MomentumCopy(online)
    teacher(torch.randn(16, 2) + 5)
    moved = teacher.module.running_mean.clone()  # type: ignore[operator, union-attr]
    assert moved.min() > 0.3
    teacher.update(online, 0.0)
    assert torch.equal(teacher.module.running_mean, moved)  # type: ignore[arg-type]
    teacher.eval()
    teacher(torch.randn(16, 2) + 5)
    assert torch.equal(teacher.module.running_mean, moved), "validation moves nothing"  # type: ignore[arg-type]


def test_momentum_rises_along_half_a_cosine() -> None:
    values = [cosine_momentum(0.9, p / 10) for p in range(11)]
    assert values[0] == pytest.approx(0.9)
    assert values[5] == pytest.approx(0.95)
    assert values[10] == 1.0
    assert values == sorted(values)
    assert cosine_momentum(1.0, 0.3) == 1.0
