"""The reference executor against torch's own modules on the visible numbers alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.networks import DenseMasked


def half(dim: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask whose first half along the first axis is visible, and an image of 4 voxels along every axis."""
    visible = torch.zeros(batch, 1, *([2] * dim), dtype=torch.bool)
    visible[:, :, 0] = True
    return visible, torch.randn(batch, 5, *([4] * dim), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [2, 3])
def test_filler_stands_at_hidden_positions_and_nowhere_else(dim: int) -> None:
    visible, x = half(dim)
    ops = DenseMasked(visible, x.shape[2:])
    filler = torch.arange(1.0, 6.0)
    out = ops.leave(ops.enter(x), filler)
    assert torch.equal(out[:, :, :2], x[:, :, :2])
    assert torch.equal(out[:, :, 2:], filler.view(1, -1, *([1] * dim)).expand_as(x)[:, :, 2:])


@pytest.mark.parametrize("module", [nn.Sigmoid(), nn.Softplus(), nn.LeakyReLU(), nn.GELU()])
def test_hidden_positions_stay_zero(module: nn.Module) -> None:
    visible, x = half(2)
    ops = DenseMasked(visible, x.shape[2:])
    out = ops.pointwise(ops.enter(x), module)
    assert torch.allclose(out[:, :, :2], module(x[:, :, :2]), atol=1e-6)
    assert not out[:, :, 2:].any()


@pytest.mark.parametrize("dim", [2, 3])
def test_windows_that_overlap_do_not_look_at_hidden_positions(dim: int) -> None:
    """All visible numbers are negative: a hidden zero would be the largest."""
    visible, x = half(dim)
    x = -1 - x.abs()
    pool = (nn.MaxPool2d if dim == 2 else nn.MaxPool3d)(3, 1, 1)
    ops = DenseMasked(visible, x.shape[2:])
    out = ops.pool(ops.enter(x), pool)
    assert torch.equal(out[:, :, :2], pool(x[:, :, :2]))
    assert not out[:, :, 2:].any()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_torch_s_on_the_visible_half(momentum: float | None) -> None:
    """Outputs and running statistics over three steps, then in evaluation."""
    ours, theirs = (nn.BatchNorm2d(5, momentum=momentum) for _ in range(2))
    visible, x = half(2)
    ops = DenseMasked(visible, x.shape[2:])
    for step in range(3):
        image = x * (step + 1) + step
        assert torch.allclose(ops.norm(ops.enter(image), ours)[:, :, :2], theirs(image[:, :, :2]), atol=1e-5)
        for name, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[name].float(), value.float(), atol=1e-5), (step, name)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.eval(), theirs.eval()
    assert torch.allclose(ops.norm(ops.enter(x), ours)[:, :, :2], theirs(x[:, :, :2]), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2])
def test_few_positions(batch: int) -> None:
    """One visible position, or two: the mean is theirs, and the running variance is finite and unbiased."""
    visible = torch.zeros(batch, 1, 2, 2, dtype=torch.bool)
    visible[:, :, 0, 1] = True
    x = torch.randn(batch, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    ops = DenseMasked(visible, (2, 2))
    assert torch.allclose(ops.mean(ops.enter(x), (2, 3))[..., 0, 0], x[:, :, 0, 1])
    norm = nn.BatchNorm2d(5, momentum=1.0)
    out = ops.norm(ops.enter(x), norm)
    chosen = x[:, :, 0, 1]
    variance = chosen.var(0, correction=1) if batch > 1 else torch.zeros(5)
    assert torch.allclose(norm.running_mean, chosen.mean(0), atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, variance, atol=1e-6)  # type: ignore[arg-type]
    assert torch.isfinite(out).all()
    one = ops.norm(ops.enter(x), nn.InstanceNorm2d(5))  # a single position is its own mean
    assert torch.equal(one, torch.zeros_like(one))
