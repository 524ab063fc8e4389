from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses import Ranks
from nnssl.losses.distillation import entropy, position_distillation, sharpen, view_distillation
from tests.losses.two_ranks import play_ranks
from tests.oracles import distillation as oracle


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def answers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.softmax(draw(*shape, seed=seed) / 0.1, dim=-1)


@pytest.mark.parametrize("views", [2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_views_agree_with_the_oracle(views: int, temperature: float) -> None:
    student, teacher = draw(3, views, 7), answers(3, 2, 7)
    expected = oracle.view_distillation(student.numpy(), teacher.numpy(), temperature)
    assert view_distillation(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_positions_agree_with_the_oracle() -> None:
    student, teacher, weight = draw(3, 4, 7), answers(3, 4, 7), draw(3, 4, seed=2).clamp(min=0)
    expected = oracle.position_distillation(student.numpy(), teacher.numpy(), weight.numpy(), 0.1)
    assert position_distillation(student, teacher, weight, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_sharpen_agrees_with_the_oracle() -> None:
    scores, centre = draw(4, 7), draw(7, seed=3)
    for row, got in zip(scores, sharpen(scores, centre, 0.04)):
        assert got.tolist() == pytest.approx(oracle.softmax(((row - centre) / 0.04).double().numpy()), abs=1e-5)


def test_a_view_is_not_compared_with_itself() -> None:
    student, teacher = draw(2, 3, 5), answers(2, 2, 5)
    teacher[:, 1] = 0.0  # of the second view nothing is asked
    changed = student.clone()
    changed[:, 0] += draw(2, 5, seed=9)
    assert torch.equal(view_distillation(student, teacher, 0.1), view_distillation(changed, teacher, 0.1))
    changed[:, 1] += draw(2, 5, seed=9)
    assert not torch.equal(view_distillation(student, teacher, 0.1), view_distillation(changed, teacher, 0.1))


def test_positions_without_weight_do_not_count_and_none_at_all_is_zero() -> None:
    student, teacher = draw(2, 3, 5).requires_grad_(), answers(2, 3, 5)
    weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    position_distillation(student, teacher, weight, 0.1).backward()
    assert student.grad is not None
    assert torch.equal(student.grad.abs().sum(-1) > 0, weight > 0)
    assert position_distillation(student, teacher, torch.zeros(2, 3), 0.1).item() == 0.0


def test_no_gradient_flows_to_the_teacher() -> None:
    student, scores = draw(2, 2, 5).requires_grad_(), draw(2, 2, 5, seed=4).requires_grad_()
    view_distillation(student, sharpen(scores, torch.zeros(5), 0.04), 0.1).backward()
    view_distillation(student, torch.softmax(scores, -1), 0.1).backward()
    position_distillation(student, torch.softmax(scores, -1), torch.ones(2, 2), 0.1).backward()
    assert scores.grad is None
    assert student.grad is not None


def test_limits() -> None:
    uniform, certain = torch.full((1, 2, 8), 1 / 8), torch.eye(8)[None, :2]
    assert entropy(uniform).tolist()[0] == pytest.approx([math.log(8)] * 2, rel=1e-5)
    assert entropy(certain).abs().max() == 0
    assert view_distillation(torch.zeros(1, 2, 8), certain, 0.1).item() == pytest.approx(math.log(8), rel=1e-5)
    agreeing = certain.flip(1)  # the student's answer to each view is the teacher's to the other
    assert view_distillation(agreeing, certain, 0.01).item() == pytest.approx(0.0, abs=1e-6)
    cold = sharpen(draw(3, 6), torch.zeros(6), torch.tensor(1e-3))
    assert entropy(cold).max() < 1e-3
    assert torch.equal(cold.argmax(-1), draw(3, 6).argmax(-1))


def test_autocast_does_not_change_the_loss() -> None:
    student, teacher = draw(4, 3, 64), answers(4, 2, 64)
    expected = view_distillation(student, teacher, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert view_distillation(student, teacher, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_positions_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, weight = draw(4, 3, 5), answers(4, 3, 5), torch.rand(4, 3)
    whole = student.clone().requires_grad_()
    expected = position_distillation(whole, teacher, weight, 0.1)
    expected.backward()

    def part(ranks: Ranks, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        mine = student[begin:end].clone().requires_grad_()
        loss = position_distillation(mine, teacher[begin:end], weight[begin:end], 0.1, ranks)
        loss.backward()
        assert mine.grad is not None
        return loss.detach(), mine.grad

    (first, g1), (second, g2) = play_ranks(monkeypatch, (3, 1), part)
    assert ((first + second) / 2).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(torch.cat([g1, g2]) / 2, whole.grad, atol=1e-6)  # type: ignore[arg-type]
