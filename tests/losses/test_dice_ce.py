from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses import Ranks, dice_ce
from tests.losses.two_ranks import play_ranks
from tests.oracles import dice_ce as oracle


def draw(
    shape: tuple[int, ...], classes: int, seed: int = 0, share: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=g)
    truth = torch.randint(classes, shape, generator=g)
    where = torch.rand((shape[0], 1, *shape[1:]), generator=g) < share
    return logits, truth, where


@pytest.mark.parametrize(("shape", "classes"), [((2, 5, 6), 3), ((3, 3, 4, 5), 5), ((1, 8, 8), 2)])
def test_agrees_with_the_oracle(shape: tuple[int, ...], classes: int) -> None:
    logits, truth, where = draw(shape, classes)
    loss, cross_entropy = dice_ce(logits, truth, where)
    expected = oracle.dice_ce(logits.numpy(), truth.numpy(), where.numpy())
    assert loss.item() == pytest.approx(expected[0], rel=1e-4)
    assert cross_entropy.item() == pytest.approx(expected[1], rel=1e-5)


def test_a_class_that_does_not_occur_is_not_scored() -> None:
    logits, truth, where = draw((2, 6, 6), 4)
    truth = truth.clamp(max=2)
    expected = oracle.dice_ce(logits.numpy(), truth.numpy(), where.numpy())
    assert dice_ce(logits, truth, where)[0].item() == pytest.approx(expected[0], rel=1e-4)
    perfect = 30.0 * torch.nn.functional.one_hot(truth, 4).movedim(-1, 1)
    assert dice_ce(perfect, truth, where)[0].item() == pytest.approx(0.0, abs=1e-5)


def test_limits() -> None:
    logits, truth, where = draw((2, 6, 6), 3)
    right = 30.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1)
    assert all(part.item() == pytest.approx(0.0, abs=1e-5) for part in dice_ce(right, truth, where))
    wrong = right.roll(1, dims=1)
    loss, cross_entropy = dice_ce(wrong, truth, where)
    assert loss.item() == pytest.approx(1.0, abs=1e-5)
    assert cross_entropy.item() == pytest.approx(30.0, rel=1e-4)
    _, undecided = dice_ce(torch.zeros_like(logits), truth, where)
    assert undecided.item() == pytest.approx(math.log(3), rel=1e-5)
    assert [part.item() for part in dice_ce(logits, truth, where & False)] == [0.0, 0.0]


def test_renaming_classes_changes_nothing() -> None:
    logits, truth, where = draw((2, 6, 6), 3)
    new_name = torch.tensor([2, 0, 1])
    renamed = torch.empty_like(logits)
    renamed[:, new_name] = logits
    for a, b in zip(dice_ce(logits, truth, where), dice_ce(renamed, new_name[truth], where)):
        assert a.item() == pytest.approx(b.item(), rel=1e-5)


def test_what_is_not_selected_neither_counts_nor_learns() -> None:
    logits, truth, where = draw((2, 6, 6), 3)
    noisy = torch.where(where, logits, 100 * torch.randn(logits.shape)).requires_grad_()
    loss, cross_entropy = dice_ce(noisy, torch.where(where[:, 0], truth, 0), where)
    for a, b in zip(dice_ce(logits, truth, where), (loss, cross_entropy)):
        assert a.item() == pytest.approx(b.item(), rel=1e-5)
    (loss + cross_entropy).backward()
    assert noisy.grad is not None
    assert (noisy.grad[~where.expand_as(noisy)] == 0).all()
    assert (noisy.grad[where.expand_as(noisy)] != 0).all()


def test_dice_is_that_of_the_batch_and_not_the_mean_of_crops() -> None:
    logits, truth, where = draw((2, 6, 6), 3)
    where[0, :, :5] = False
    each = [dice_ce(logits[b : b + 1], truth[b : b + 1], where[b : b + 1])[0] for b in range(2)]
    assert abs(dice_ce(logits, truth, where)[0] - (each[0] + each[1]) / 2) > 1e-3


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1)])
def test_processes_together_have_the_gradient_of_the_big_batch(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    logits, truth, where = draw((4, 5, 6), 3)
    where[0, :, 2:] = False  # processes count unequal numbers of voxels
    whole = logits.clone().requires_grad_()
    loss, cross_entropy = dice_ce(whole, truth, where)
    (loss + 2 * cross_entropy).backward()
    assert whole.grad is not None

    def part(ranks: Ranks, begin: int, end: int) -> tuple[float, torch.Tensor]:
        mine = logits[begin:end].clone().requires_grad_()
        dice, ce = dice_ce(mine, truth[begin:end], where[begin:end], ranks)
        total = dice + 2 * ce
        total.backward()
        return total.item(), mine.grad  # type: ignore[return-value]

    parts = play_ranks(monkeypatch, sizes, part)
    # training averages over processes
    assert sum(total for total, _ in parts) / 2 == pytest.approx((loss + 2 * cross_entropy).item(), rel=1e-5)
    assert torch.allclose(torch.cat([g for _, g in parts]) / 2, whole.grad, atol=1e-7)


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.zeros(1, 2, 64, 64, 64, dtype=torch.float16)
    truth = torch.zeros(1, 64, 64, 64, dtype=torch.long)
    truth[:, :32] = 1
    loss, cross_entropy = dice_ce(logits, truth, torch.ones(1, 1, 64, 64, 64, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.5, rel=1e-4)
    assert cross_entropy.item() == pytest.approx(math.log(2), rel=1e-4)
