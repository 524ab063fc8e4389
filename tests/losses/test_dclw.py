from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses.dclw import dclw, positive_weights
from nnssl.losses.nt_xent import negatives
from tests.losses.test_nt_xent import draw
from tests.oracles import dclw as oracle


@pytest.mark.parametrize(("temperature", "sigma"), [(0.1, 0.5), (0.5, 0.2)])
@pytest.mark.parametrize("case", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [0, 0, 0, 0, 1], [7, 7, 7, 7, 7]])
def test_agrees_with_the_oracle(case: list[int], temperature: float, sigma: float) -> None:
    z1, z2 = draw(len(case))
    number = torch.tensor(case)
    allowed = negatives(number, number, same_case=False)
    loss, accuracy = dclw(z1, z2, temperature, sigma, allowed)
    expected = oracle.dclw(z1.numpy(), z2.numpy(), temperature, sigma, allowed.numpy())
    assert loss.item() == pytest.approx(expected[0], rel=1e-4, abs=1e-6)
    assert accuracy.item() == pytest.approx(expected[1])


def test_crops_without_negatives_count_neither_in_the_loss_nor_in_the_weights() -> None:
    z1, z2 = draw(4)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[3], allowed[:, 3] = False, False
    expected = oracle.dclw(z1.numpy(), z2.numpy(), 0.1, 0.5, allowed.numpy())
    assert dclw(z1, z2, 0.1, 0.5, allowed)[0].item() == pytest.approx(expected[0], rel=1e-4)
    assert dclw(z1, z2, 0.1, 0.5, allowed)[0].item() == pytest.approx(
        dclw(z1[:3], z2[:3], 0.1, 0.5)[0].item(), rel=1e-5
    )


def test_no_negatives_at_all_is_zero_and_not_nan() -> None:
    z1 = torch.randn(2, 4, requires_grad=True)
    loss, accuracy = dclw(z1, torch.randn(2, 4), 0.1, 0.5, torch.zeros(2, 2, dtype=torch.bool))
    loss.backward()
    assert (loss.item(), accuracy.item()) == (0.0, 0.0)
    assert z1.grad is not None
    assert torch.equal(z1.grad, torch.zeros(2, 4))


def test_the_positive_is_not_in_the_denominator() -> None:
    """Identical views of orthogonal crops: -1 / tau + log(negatives), without the 1 that NT-Xent adds to the sum."""
    n, tau = 4, 0.1
    z = torch.eye(n)
    assert dclw(z, z, tau, 0.5)[0].item() == pytest.approx(-1 / tau + math.log(2 * n - 2), rel=1e-5)


def test_weights() -> None:
    everyone = torch.ones(3, dtype=torch.bool)
    weights = positive_weights(torch.tensor([0.9, 0.5, -0.2]), 0.5, everyone)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (weights.diff() > 0).all(), "distant positives count more"
    assert torch.allclose(positive_weights(torch.full((3,), 0.4), 0.5, everyone), torch.ones(3))
    assert (positive_weights(torch.tensor([1.0, -1.0, -1.0]), 0.5, everyone) >= 2 - 3).all()


def test_no_gradient_flows_through_the_weights() -> None:
    """With weights as constants, the gradient pulls every pair together that has a positive weight."""
    z1, z2 = draw(3)
    z2[0] = z1[0] + 0.05 * torch.randn(z1.shape[1], generator=torch.Generator().manual_seed(1))  # agrees already
    z1.requires_grad_()
    similarity = torch.nn.functional.cosine_similarity(z1, z2)
    weights = positive_weights(similarity, 0.5, torch.ones(3, dtype=torch.bool))
    assert not weights.requires_grad
    negatives_only = dclw(z1, z2, 0.1, 0.5)[0] + (weights * similarity).mean() / 0.1
    (gradient,) = torch.autograd.grad(negatives_only, z1)
    # the rest of the loss knows nothing of how close the views are: it is that of the negatives alone
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / 0.1).masked_fill(torch.eye(3, dtype=torch.bool).repeat(2, 2), -torch.inf)
    (expected,) = torch.autograd.grad(logits.logsumexp(1).mean(), z1)
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_order_of_views_and_crops_does_not_matter() -> None:
    z1, z2 = draw(5)
    loss = dclw(z1, z2, 0.1, 0.5)[0].item()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert dclw(z2, z1, 0.1, 0.5)[0].item() == pytest.approx(loss, rel=1e-4)
    assert dclw(z1[order], z2[order], 0.1, 0.5)[0].item() == pytest.approx(loss, rel=1e-4)


def test_half_precision_and_autocast_do_not_change_the_loss() -> None:
    z1, z2 = (z.bfloat16() for z in draw(6, 32))
    expected = dclw(z1.float(), z2.float(), 0.1, 0.5)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dclw(z1, z2, 0.1, 0.5)[0].item() == pytest.approx(expected.item(), rel=1e-5)
