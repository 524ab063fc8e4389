from __future__ import annotations

import pytest
import torch

from nnssl.losses.barlow_twins import barlow_twins, standardise
from tests.oracles import barlow_twins as oracle


def embeddings(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z1 = torch.randn(rows, width, generator=g)
    return z1, 3 * z1 + torch.randn(rows, width, generator=g) + 5


@pytest.mark.parametrize("rows", [3, 8])
@pytest.mark.parametrize("redundancy", [0.0051, 0.5])
@pytest.mark.parametrize("joint", [False, True])
def test_agrees_with_the_oracle(rows: int, redundancy: float, joint: bool) -> None:
    z1, z2 = embeddings(rows, 5)
    loss, parts = barlow_twins(z1, z2, redundancy, joint)
    expected = oracle.barlow_twins(z1.numpy(), z2.numpy(), redundancy, joint)
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    total = 5 * (parts["on_diagonal"] + redundancy * parts["off_diagonal"])
    assert total.item() == pytest.approx(loss.item(), rel=1e-5)


def test_does_not_change_when_views_or_rows_are_swapped() -> None:
    z1, z2 = embeddings(6, 4)
    loss = barlow_twins(z1, z2)[0]
    assert torch.allclose(barlow_twins(z2, z1)[0], loss)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert torch.allclose(barlow_twins(z1[order], z2[order])[0], loss)


def test_does_not_see_mean_and_scale_of_a_dimension() -> None:
    z1, z2 = embeddings(6, 4)
    moved = z1 * torch.tensor([0.5, 2.0, 10.0, 3.0]) + torch.tensor([1.0, -2.0, 0.0, 7.0])
    assert torch.allclose(barlow_twins(moved, z2)[0], barlow_twins(z1, z2)[0], rtol=1e-3)


def test_equal_uncorrelated_embeddings_score_zero_and_a_collapsed_batch_its_width() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert barlow_twins(z, z)[0].item() == pytest.approx(0, abs=1e-6)
    assert barlow_twins(torch.ones(4, 2), z)[0].item() == pytest.approx(2.0)


def test_joint_statistics_see_a_difference_in_mean_and_scale_between_views() -> None:
    z1, _ = embeddings(8, 4)
    assert barlow_twins(z1, 2 * z1 + 1, 0.0)[0].item() == pytest.approx(0, abs=1e-4)
    assert barlow_twins(z1, 2 * z1 + 1, 0.0, joint=True)[0] > 0.1
    assert barlow_twins(z1, z1, 0.0, joint=True)[0].item() == pytest.approx(0, abs=1e-4)


def test_two_crops_leave_a_gradient_only_with_joint_statistics() -> None:
    z1, z2 = embeddings(2, 4)
    gradients = []
    for joint in (False, True):
        z = z1.clone().requires_grad_()
        barlow_twins(z, z2, joint=joint)[0].backward()
        assert z.grad is not None
        gradients.append(z.grad.abs().max().item())
    assert gradients[0] < 1e-3 < 0.1 < gradients[1]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("joint", [False, True])
def test_loss_and_gradients_of_the_smallest_batches_are_finite(rows: int, spread: float, joint: bool) -> None:
    z1 = (spread * torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss, _ = barlow_twins(z1, z1.detach() + 1, joint=joint)
    loss.backward()
    assert loss.isfinite()
    assert z1.grad is not None
    assert z1.grad.isfinite().all()


def test_standardised_dimensions_have_mean_zero_and_variance_one() -> None:
    z = standardise(embeddings(50, 3)[1])
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(z.square().mean(0), torch.ones(3), atol=1e-4)


def test_within_autocast_the_product_is_computed_in_float32() -> None:
    z1, z2 = embeddings(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = barlow_twins(z1, z2)[0]
    assert torch.equal(loss, barlow_twins(z1, z2)[0])


def test_half_precision_is_computed_in_float32() -> None:
    z = torch.full((8, 16), 300.0, dtype=torch.float16)
    z[::2] = -300.0
    loss, _ = barlow_twins(z, z)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
