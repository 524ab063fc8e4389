from __future__ import annotations

import pytest
import torch

from nnssl.losses.cosine import negative_cosine
from tests.oracles import cosine as oracle


def draw(rows: int = 5, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=g), torch.randn(rows, width, generator=g)


@pytest.mark.parametrize("rows", [1, 5])
def test_agrees_with_the_oracle(rows: int) -> None:
    p, t = draw(rows)
    assert negative_cosine(p, t).item() == pytest.approx(oracle.negative_cosine(p.numpy(), t.numpy()), rel=1e-5)


def test_limits() -> None:
    p, _ = draw()
    assert negative_cosine(p, 3 * p).item() == pytest.approx(-1)
    assert negative_cosine(p, -0.1 * p).item() == pytest.approx(1)
    assert negative_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])) == 0


def test_values_do_not_depend_on_lengths_or_on_which_is_the_target() -> None:
    p, t = draw()
    assert torch.allclose(negative_cosine(p, t), negative_cosine(5 * p, 0.2 * t))
    assert torch.allclose(negative_cosine(p, t), negative_cosine(t, p))


def test_no_gradient_reaches_the_target() -> None:
    p, t = (x.requires_grad_() for x in draw())
    negative_cosine(p, t).backward()
    assert t.grad is None
    assert p.grad is not None
    assert p.grad.abs().sum() > 0


def test_a_zero_vector_has_a_finite_gradient() -> None:
    p = torch.zeros(2, 3, requires_grad=True)
    negative_cosine(p, torch.ones(2, 3)).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    p = torch.full((2, 64), 300.0, dtype=torch.float16)
    loss = negative_cosine(p, p)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-1)
