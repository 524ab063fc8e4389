from __future__ import annotations

import pytest
import torch

from nnssl.losses.sinkhorn import sinkhorn
from tests.oracles import sinkhorn as oracle


def scores(rows: int, prototypes: int) -> torch.Tensor:
    return torch.rand(rows, prototypes, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shape", [(6, 4), (3, 8)])
def test_agrees_with_the_oracle(shape: tuple[int, int], iterations: int) -> None:
    s = scores(*shape)
    expected = oracle.sinkhorn(s.double().numpy(), 0.1, iterations)
    assert torch.allclose(sinkhorn(s, 0.1, iterations), torch.from_numpy(expected).float(), atol=1e-5)


def test_weights_agree_with_the_oracle_and_with_leaving_rows_out() -> None:
    s = scores(6, 4)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.5, 2.0, 0.0])
    expected = oracle.sinkhorn(s.double().numpy(), 0.1, 3, weight.numpy())
    assert torch.allclose(sinkhorn(s, 0.1, 3, weight), torch.from_numpy(expected).float(), atol=1e-5)
    empty = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert torch.allclose(sinkhorn(s, 0.1, 3, empty)[:4], sinkhorn(s[:4], 0.1, 3), atol=1e-6)


def test_rows_sum_to_one_and_columns_become_even() -> None:
    s = scores(32, 8)
    q = sinkhorn(s)
    assert torch.allclose(q.sum(1), torch.ones(32), atol=1e-5)

    def unevenness(iterations: int) -> float:
        return (sinkhorn(s, iterations=iterations).sum(0) / 4 - 1).abs().max().item()

    assert unevenness(100) < 0.01 < unevenness(1)


def test_large_epsilon_is_uniform_and_small_epsilon_is_hard_and_finite() -> None:
    s = scores(8, 4)
    assert torch.allclose(sinkhorn(s, 1e4), torch.full((8, 4), 0.25), atol=1e-3)
    hard = sinkhorn(s, 1e-3, 50)
    assert hard.isfinite().all()
    assert hard.max(1).values.mean() > 0.95


def test_equal_scores_are_uniform() -> None:
    assert torch.allclose(sinkhorn(torch.full((5, 3), 0.7)), torch.full((5, 3), 1 / 3))


def test_a_prototype_that_everybody_likes_gets_no_more_than_its_share() -> None:
    s = scores(16, 4)
    popular = s + torch.tensor([5.0, 0.0, 0.0, 0.0])
    assert popular.argmax(1).eq(0).all()
    assert torch.allclose(sinkhorn(popular), sinkhorn(s), atol=1e-4)


def test_has_no_gradient() -> None:
    assert not sinkhorn(scores(4, 3).requires_grad_()).requires_grad


def test_order_of_rows_does_not_matter() -> None:
    s = scores(6, 4)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.allclose(sinkhorn(s[order]), sinkhorn(s)[order], atol=1e-6)
