"""The average of the weights along a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnssl.trainers.averaging import WeightAverage
from torch import nn


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_it_is_the_power_weighted_mean_of_all_steps(power: float) -> None:
    """By hand: w_t weighs prod-recursively (power + 1) / (t + power) at its step."""
    module = nn.Linear(1, 1)
    average = WeightAverage(module, power)
    values = np.random.default_rng(0).normal(size=30)
    weights = np.zeros(30)
    for t, value in enumerate(values, start=1):
        share = (power + 1) / (t + power)
        weights *= 1 - share
        weights[t - 1] = share
        with torch.no_grad():
            module.weight.fill_(float(value))
        average.update()
    assert weights.sum() == pytest.approx(1)
    # late steps weigh as t^power, up to the lower-order terms of the recursion
    assert weights[29] / weights[14] == pytest.approx(2**power, rel=0.35)
    with average.in_place():
        assert float(module.weight.detach()) == pytest.approx(float(weights @ values), rel=1e-5)
    assert float(module.weight.detach()) == pytest.approx(values[-1])


def test_a_continued_average_is_the_same_average() -> None:
    torch.manual_seed(0)
    steps = [torch.randn(3, 4) for _ in range(9)]
    whole, first, second = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)
    one, two, three = (WeightAverage(m, 3.0) for m in (whole, first, second))
    for t, step in enumerate(steps):
        for module, average in ((whole, one), (first, two)) if t < 5 else ((whole, one), (second, three)):
            with torch.no_grad():
                module.weight.copy_(step)
            average.update()
        if t == 4:
            three.load_state_dict(two.state_dict())
    with one.in_place(), three.in_place():
        assert torch.equal(whole.weight, second.weight)


def test_before_the_first_step_there_is_nothing_to_exchange() -> None:
    """A finished training that is continued takes no step, and its weights were loaded after this was built."""
    module = nn.Linear(2, 2)
    average = WeightAverage(module, 2.0)
    with torch.no_grad():
        module.weight.fill_(7)
    average.exchange()
    assert float(module.weight.detach().mean()) == 7


def test_running_statistics_are_averaged_with_the_weights() -> None:
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, 1.0)
    for value in (1.0, 3.0):
        module.running_mean.fill_(value)
        average.update()
    with average.in_place():
        assert float(module.running_mean[0]) == pytest.approx(1 + (3 - 1) * 2 / 3)
    assert float(module.running_mean[0]) == 3


def test_an_error_inside_leaves_the_weights_that_learn() -> None:
    module = nn.Linear(2, 2)
    average = WeightAverage(module, 2.0)
    with torch.no_grad():
        module.weight.add_(1)
    average.update()
    with torch.no_grad():
        module.weight.add_(1)
    kept = module.weight.detach().clone()
    with pytest.raises(RuntimeError), average.in_place():
        assert not torch.equal(module.weight, kept)
        raise RuntimeError
    assert torch.equal(module.weight, kept)
