from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses.nt_xent import negatives, nt_xent
from tests.oracles import nt_xent as oracle


def draw(n: int, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    z1 = torch.randn(n, width, generator=g)
    return z1, z1 + 0.7 * torch.randn(n, width, generator=g)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("case", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [0, 0, 0, 0, 1], [7, 7, 7, 7, 7]])
def test_agrees_with_the_oracle(case: list[int], temperature: float) -> None:
    z1, z2 = draw(len(case))
    number = torch.tensor(case)
    allowed = negatives(number, number, same_case=False)
    loss, accuracy = nt_xent(z1, z2, temperature, allowed)
    expected = oracle.nt_xent(z1.numpy(), z2.numpy(), temperature, allowed.numpy())
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    assert accuracy.item() == pytest.approx(expected[1])


def test_by_default_all_other_crops_are_negatives() -> None:
    z1, z2 = draw(4)
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert torch.equal(nt_xent(z1, z2, 0.2)[0], nt_xent(z1, z2, 0.2, everything)[0])


def test_order_of_views_and_crops_and_length_of_vectors_do_not_matter() -> None:
    z1, z2 = draw(5)
    loss = nt_xent(z1, z2, 0.2)[0]
    order = torch.tensor([3, 0, 4, 1, 2])
    for other in (nt_xent(z2, z1, 0.2), nt_xent(z1[order], z2[order], 0.2), nt_xent(3 * z1, 0.2 * z2, 0.2)):
        assert other[0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_limits() -> None:
    n, tau = 4, 0.5
    same = torch.ones(n, 8)
    assert nt_xent(same, same, tau)[0].item() == pytest.approx(math.log(2 * n - 1), rel=1e-5)
    apart = torch.eye(n)
    expected = math.log(1 + (2 * n - 2) * math.exp(-1 / tau))
    loss, accuracy = nt_xent(apart, apart, tau)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert accuracy == 1
    assert nt_xent(apart, apart.roll(1, 0), tau)[1] == 0


def test_an_anchor_without_negatives_does_not_dilute_the_mean() -> None:
    z1, z2 = draw(4)
    number = torch.tensor([0, 0, 1, 1])
    alone = torch.zeros(5, dtype=torch.long)
    alone[:4] = number
    allowed = negatives(alone, alone, same_case=False)
    allowed[4], allowed[:, 4] = False, False  # the fifth crop may be contrasted with nobody
    extra = torch.randn(1, z1.shape[1])
    with_extra = nt_xent(torch.cat([z1, extra]), torch.cat([z2, extra]), 0.2, allowed)
    without = nt_xent(z1, z2, 0.2, negatives(number, number, same_case=False))
    assert with_extra[0].item() == pytest.approx(without[0].item(), rel=1e-5)
    assert with_extra[1].item() == pytest.approx(without[1].item())


def test_one_crop_alone_costs_nothing_and_gives_a_gradient_of_zero() -> None:
    z1 = torch.randn(1, 4, requires_grad=True)
    loss, accuracy = nt_xent(z1, torch.randn(1, 4), 0.2)
    loss.backward()
    assert (loss.item(), accuracy.item()) == (0.0, 0.0)
    assert z1.grad is not None
    assert torch.equal(z1.grad, torch.zeros(1, 4))


def test_gradient_pulls_views_together_and_pushes_crops_apart() -> None:
    z1, z2 = (z.requires_grad_() for z in draw(3))
    nt_xent(z1, z2, 0.2)[0].backward()
    with torch.no_grad():
        before = torch.nn.functional.cosine_similarity(z1, z2).mean()
        after = torch.nn.functional.cosine_similarity(z1 - 0.1 * z1.grad, z2 - 0.1 * z2.grad).mean()  # type: ignore[operator]
    assert after > before


def test_half_precision_and_autocast_do_not_change_the_loss() -> None:
    z1, z2 = (z.bfloat16() for z in draw(6, 32))
    expected = nt_xent(z1.float(), z2.float(), 0.05)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nt_xent(z1, z2, 0.05)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives() -> None:
    case, others = torch.tensor([0, 1, -1]), torch.tensor([1, 0, -1, 1])
    expected = [[True, False, True, True], [False, True, True, False], [True] * 4]
    assert negatives(case, others, same_case=False).tolist() == expected
    assert negatives(case, others, same_case=True).all()
