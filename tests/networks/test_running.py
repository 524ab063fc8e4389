from __future__ import annotations

import copy

import pytest
import torch

from nnssl.networks.running import RunningMean, RunningNorm


def follow(mean: RunningMean, values: list[float]) -> None:
    for value in values:
        mean.see(torch.tensor([value]))
        mean.update()


def test_first_the_plain_mean_then_a_moving_one() -> None:
    mean = RunningMean(torch.tensor([100.0]), momentum=0.9)
    follow(mean, [1.0, 2.0, 6.0])
    assert mean.value.item() == pytest.approx(3.0), "what it started with is forgotten"
    follow(mean, [3.0] * 7)  # ten steps: from now on a tenth of every new value
    now = mean.value.item()
    follow(mean, [13.0])
    assert mean.value.item() == pytest.approx(0.9 * now + 1.3)


def test_validation_and_a_step_without_a_batch_move_nothing() -> None:
    mean = RunningMean(torch.zeros(1), momentum=0.9)
    follow(mean, [2.0])
    before = copy.deepcopy(mean.state_dict())
    mean.update()
    mean.eval()
    follow(mean, [9.0])
    assert all(torch.equal(before[k], v) for k, v in mean.state_dict().items())
    assert mean.value.item() == 2.0


def test_norm_takes_away_what_all_rows_share() -> None:
    rows = 5 + 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
    norm = RunningNorm(3)
    assert torch.equal(norm(rows), rows), "before the first step it does nothing"
    norm.moments.see(torch.cat([rows.mean(0), rows.square().mean(0)]))
    norm.moments.update()
    out = norm(rows)
    assert out.mean(0).abs().max() < 0.05
    assert (out.std(0) - 1).abs().max() < 0.1


def test_a_feature_that_never_changes_stays_finite() -> None:
    norm = RunningNorm(2)
    norm.moments.see(torch.tensor([3.0, 0.0, 9.0, 0.0]))
    norm.moments.update()
    assert torch.isfinite(norm(torch.tensor([[3.0, 0.0]]))).all()
    assert norm(torch.tensor([[3.0, 0.0]])).abs().max() == 0
