from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses.volume_contrast import FLOOR, cell_similarity, overlap_loss
from tests.oracles import volume_contrast as oracle


def draw(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    predicted, overlap = torch.rand(2, 3, 4, 5, generator=g) * 0.9
    return predicted, overlap, torch.rand(3, 5, generator=g) < 0.7, torch.randn(3, 5, 8, generator=g)


def test_overlap_loss_agrees_with_the_oracle() -> None:
    predicted, overlap, counts, _ = draw()
    expected = oracle.overlap_loss(predicted.numpy(), overlap.numpy(), counts.numpy())
    # the floor changes the published loss by a factor below 1 + FLOOR / 0.1 where the error stays below 0.9
    assert overlap_loss(predicted, overlap, counts).item() == pytest.approx(expected, rel=10 * FLOOR)


def test_overlap_loss_limits() -> None:
    y, counts = torch.tensor([[[0.25, 0.75, 0.0]]]), torch.ones(1, 3, dtype=torch.bool)
    assert overlap_loss(y, y, counts) == 0
    wrong = torch.ones(1, 1, 3, requires_grad=True)
    loss = overlap_loss(wrong, torch.zeros(1, 1, 3), counts)
    assert loss.item() == pytest.approx(-math.log(FLOOR), rel=1e-3)
    loss.backward()
    assert wrong.grad is not None
    assert wrong.grad.max().item() == pytest.approx((1 - FLOOR) / FLOOR / 3, rel=1e-2)
    assert overlap_loss(y, 1 - y, ~counts) == 0


def test_cells_that_are_not_scored_neither_count_nor_learn() -> None:
    predicted, overlap, counts, _ = draw()
    hidden = ~counts[:, None].expand_as(predicted)
    noisy = torch.where(hidden, torch.rand(predicted.shape), predicted).requires_grad_()
    loss = overlap_loss(noisy, overlap, counts)
    assert loss.item() == pytest.approx(overlap_loss(predicted, overlap, counts).item(), rel=1e-6)
    loss.backward()
    assert noisy.grad is not None
    assert (noisy.grad[hidden] == 0).all()
    assert (noisy.grad[~hidden] != 0).all()


def test_cell_similarity_agrees_with_the_oracle() -> None:
    _, _, counts, cells = draw()
    expected = oracle.cell_similarity(cells.numpy(), counts.numpy())
    assert cell_similarity(cells, counts).item() == pytest.approx(expected, rel=1e-5)


def test_cell_similarity_limits() -> None:
    counts = torch.ones(2, 4, dtype=torch.bool)
    assert cell_similarity(torch.ones(2, 4, 3), counts).item() == pytest.approx(1.0)
    assert cell_similarity(torch.eye(4).repeat(2, 1, 1), counts).item() == pytest.approx(0.0, abs=1e-6)
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert cell_similarity(opposite, counts[:1, :2]) == 0
    alone = torch.zeros(2, 4, dtype=torch.bool)
    alone[:, 1] = True
    assert cell_similarity(torch.ones(2, 4, 3), alone) == 0


def test_cells_of_different_crops_are_not_compared() -> None:
    cells = torch.eye(4)[None].repeat(2, 1, 1)
    cells[1] = cells[1].roll(1, 0)
    assert cell_similarity(cells, torch.ones(2, 4, dtype=torch.bool)).item() == pytest.approx(0.0, abs=1e-6)
