from __future__ import annotations

import pytest
import torch

from nnssl.losses import masked_mse
from tests.oracles import masked_mse as oracle


@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (3, 2, 3, 4, 5)])
def test_agrees_with_the_oracle(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    where = torch.rand((shape[0], 1, *shape[2:]), generator=g) < 0.3
    expected = oracle.masked_mse(prediction.numpy(), target.numpy(), where.numpy())
    assert masked_mse(prediction, target, where).item() == pytest.approx(expected, rel=1e-5)


def test_only_selected_voxels_get_a_gradient() -> None:
    prediction = torch.zeros(1, 1, 4, 4, requires_grad=True)
    where = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    where[..., 1, 2] = True
    masked_mse(prediction, torch.ones(1, 1, 4, 4), where).backward()
    assert prediction.grad is not None
    assert prediction.grad[0, 0, 1, 2] == -2
    assert prediction.grad.abs().sum() == 2


def test_nothing_selected_is_zero_and_not_nan() -> None:
    assert masked_mse(torch.ones(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4, dtype=torch.bool)) == 0


def test_half_precision_is_summed_in_float32() -> None:
    target = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float16)
    prediction = torch.full_like(target, 2.0)
    assert masked_mse(prediction, target, torch.ones(1, 1, 64, 64, 64, dtype=torch.bool)).item() == pytest.approx(4.0)
