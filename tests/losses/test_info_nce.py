from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses.info_nce import info_nce
from tests.losses.test_nt_xent import draw
from tests.oracles import info_nce as oracle


@pytest.mark.parametrize("temperature", [0.07, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_agrees_with_the_oracle(temperature: float, share: float) -> None:
    query, key = draw(5)
    others, _ = draw(9, seed=1)
    allowed = torch.rand(5, 9, generator=torch.Generator().manual_seed(2)) < share
    loss, accuracy = info_nce(query, key, others, temperature, allowed)
    expected = oracle.info_nce(query.numpy(), key.numpy(), others.numpy(), temperature, allowed.numpy())
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    assert accuracy.item() == pytest.approx(expected[1])


def test_limits() -> None:
    same = torch.ones(3, 4)
    everything = torch.ones(3, 7, dtype=torch.bool)
    loss, accuracy = info_nce(same, same, torch.ones(7, 4), 0.2, everything)
    assert loss.item() == pytest.approx(math.log(8), rel=1e-5)
    assert accuracy == 0, "a tie is not right"
    found, _ = info_nce(same, same, -torch.ones(7, 4), 0.2, everything)
    assert found.item() == pytest.approx(math.log(1 + 7 * math.exp(-10)), rel=1e-2)


def test_what_is_not_allowed_changes_nothing() -> None:
    query, key = draw(3)
    others, _ = draw(4, seed=1)
    allowed = torch.tensor([[True, True, False, False]] * 3)
    noisy = torch.cat([others[:2], 100 * torch.randn(2, others.shape[1])])
    assert torch.equal(info_nce(query, key, others, 0.2, allowed)[0], info_nce(query, key, noisy, 0.2, allowed)[0])


def test_only_queries_get_a_gradient() -> None:
    query, key = (z.requires_grad_() for z in draw(3))
    others = torch.randn(4, query.shape[1], requires_grad=True)
    info_nce(query, key, others, 0.2, torch.ones(3, 4, dtype=torch.bool))[0].backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert key.grad is None
    assert others.grad is None


def test_without_negatives_it_is_zero_with_a_gradient_of_zero() -> None:
    query = torch.randn(2, 4, requires_grad=True)
    loss, accuracy = info_nce(query, torch.randn(2, 4), torch.zeros(3, 4), 0.2, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert (loss.item(), accuracy.item()) == (0.0, 0.0)
    assert query.grad is not None
    assert torch.equal(query.grad, torch.zeros(2, 4))


def test_half_precision_and_autocast_do_not_change_the_loss() -> None:
    query, key = (z.bfloat16() for z in draw(4, 32))
    others, allowed = torch.randn(8, 32), torch.ones(4, 8, dtype=torch.bool)
    expected = info_nce(query.float(), key.float(), others, 0.07, allowed)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert info_nce(query, key, others, 0.07, allowed)[0].item() == pytest.approx(expected.item(), rel=1e-5)
