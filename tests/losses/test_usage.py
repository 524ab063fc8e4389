from __future__ import annotations

import math

import pytest
import torch

from nnssl.losses.usage import Usage, assignment_sums


def usage(p: torch.Tensor, weight: torch.Tensor | None = None) -> dict[str, float]:
    counted = Usage(p.shape[-1], "x_")
    for crop in range(len(p)):  # batch by batch
        w = torch.ones(1, p.shape[1]) if weight is None else weight[crop : crop + 1]
        counted.add(assignment_sums(p[crop : crop + 1], w))
    found = counted.metrics()
    assert counted.metrics() == {}, "forgets"
    return found


def test_agrees_with_a_loop() -> None:
    p = torch.softmax(torch.randn(3, 4, 6) * 3, dim=-1)
    weight = torch.rand(3, 4)
    mean, single = [0.0] * 6, 0.0
    for crop in range(3):
        for position in range(4):
            w = float(weight[crop, position] / weight.sum())
            row = p[crop, position].tolist()
            mean = [m + w * q for m, q in zip(mean, row)]
            single += w * -sum(q * math.log(q) for q in row)
    expected = {
        "x_usage_entropy": -sum(m * math.log(m) for m in mean) / math.log(6),
        "x_assignment_entropy": single / math.log(6),
    }
    assert usage(p, weight) == pytest.approx(expected, rel=1e-4)


def test_what_collapse_and_health_look_like() -> None:
    one = torch.zeros(8, 1, 4)
    one[..., 2] = 1.0
    each_its_own = torch.eye(4).repeat(2, 1)[:, None]
    all_alike = torch.full((8, 1, 4), 0.25)
    assert usage(one) == pytest.approx({"x_usage_entropy": 0.0, "x_assignment_entropy": 0.0}, abs=1e-6)
    assert usage(each_its_own) == pytest.approx({"x_usage_entropy": 1.0, "x_assignment_entropy": 0.0}, abs=1e-6)
    assert usage(all_alike) == pytest.approx({"x_usage_entropy": 1.0, "x_assignment_entropy": 1.0}, abs=1e-6)


def test_nothing_to_count_is_no_metric() -> None:
    assert Usage(4).metrics() == {}
    assert usage(torch.full((2, 3, 4), 0.25), torch.zeros(2, 3)) == {}
