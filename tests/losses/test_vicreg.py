from __future__ import annotations

import pytest
import torch

from nnssl.losses.vicreg import off_diagonal_covariance, variance_hinge, vicreg
from tests.oracles import vicreg as oracle


def embeddings(rows: int, width: int, scale: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z1 = scale * torch.randn(rows, width, generator=g)
    return z1, z1 + 0.3 * torch.randn(rows, width, generator=g)


@pytest.mark.parametrize("rows", [2, 3, 7])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 4.0)])
def test_agrees_with_the_oracle(rows: int, weights: tuple[float, float, float]) -> None:
    z1, z2 = embeddings(rows, 5)
    loss, parts = vicreg(z1, z2, *weights)
    assert loss.item() == pytest.approx(oracle.vicreg(z1.numpy(), z2.numpy(), weights), rel=1e-4)
    total = sum(w * parts[k].item() for w, k in zip(weights, ("invariance", "variance", "covariance")))
    assert total == pytest.approx(loss.item(), rel=1e-5)


def test_does_not_change_when_views_or_rows_are_swapped() -> None:
    z1, z2 = embeddings(6, 4)
    loss = vicreg(z1, z2)[0]
    assert torch.allclose(vicreg(z2, z1)[0], loss)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.allclose(vicreg(z1[order], z2[order])[0], loss)


def test_equal_uncorrelated_wide_embeddings_score_zero() -> None:
    z = 3 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert vicreg(z, z)[0] == 0


def test_a_collapsed_batch_costs_its_variance_and_has_finite_gradients() -> None:
    z1 = torch.ones(4, 3, requires_grad=True)
    loss, parts = vicreg(z1, torch.ones(4, 3))
    loss.backward()
    assert parts["variance"].item() == pytest.approx(2 * 0.99)
    assert z1.grad is not None
    assert z1.grad.isfinite().all()


def test_the_hinge_pushes_a_narrow_dimension_apart_and_leaves_a_wide_one_alone() -> None:
    z = torch.tensor([[0.0, 0.0], [0.1, 5.0]], requires_grad=True)
    variance_hinge(z).backward()
    assert z.grad is not None
    assert z.grad[1, 0] < 0 < z.grad[0, 0]
    assert torch.equal(z.grad[:, 1], torch.zeros(2))


def test_covariance_of_two_equal_dimensions() -> None:
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # covariance 2, twice, over 2 dimensions
    assert off_diagonal_covariance(z).item() == pytest.approx(4.0)


def test_one_row_is_finite() -> None:
    z1 = torch.randn(1, 4, requires_grad=True)
    loss, _ = vicreg(z1, torch.zeros(1, 4))
    loss.backward()
    assert loss.isfinite()
    assert z1.grad is not None
    assert z1.grad.isfinite().all()


def test_within_autocast_the_product_is_computed_in_float32() -> None:
    z1, z2 = embeddings(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vicreg(z1, z2)[0]
    assert torch.equal(loss, vicreg(z1, z2)[0])


def test_half_precision_is_computed_in_float32() -> None:
    z = torch.full((8, 16), 300.0, dtype=torch.float16)
    z[::2] = -300.0
    loss, _ = vicreg(z, z)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
