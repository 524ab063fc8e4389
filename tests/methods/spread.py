"""A method's step on one process, and the same batch spread over several."""

from __future__ import annotations

import copy

import pytest
import torch

from nnssl.losses import Ranks
from nnssl.methods import Method, Views
from tests.losses.two_ranks import play_ranks


def assert_spreading_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, method: Method, views: Views, sizes: tuple[int, ...]
) -> list[Method]:
    """Total, terms, and the gradient that training averages over processes are those of the whole batch.

    Returns:
        The method of every process after `after_step`, last that of the single process.
    """
    whole = copy.deepcopy(method)
    expected = whole(views)
    expected.total.backward()

    def part(ranks: Ranks, begin: int, end: int) -> tuple[Method, torch.Tensor, dict]:
        mine = copy.deepcopy(method)
        mine.assign_ranks(ranks)
        losses = mine({k: v[begin:end] for k, v in views.items()})
        losses.total.backward()
        return mine, losses.total.detach(), losses.terms

    parts = play_ranks(monkeypatch, sizes, part)
    assert torch.allclose(sum(total for _, total, _ in parts) / len(sizes), expected.total.detach(), atol=1e-5)
    for name, value in expected.terms.items():
        assert torch.allclose(sum(terms[name] for _, _, terms in parts) / len(sizes), value, atol=1e-5), name
    everywhere = [dict(m.named_parameters()) for m, _, _ in parts]
    # a bias in front of a norm has a gradient of rounding alone, whose size follows from that of the others
    largest = max(float(p.grad.abs().max()) for p in whole.parameters() if p.grad is not None)
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            average = sum(p[name].grad for p in everywhere) / len(sizes)  # type: ignore[misc]
            assert torch.allclose(average, parameter.grad, rtol=1e-3, atol=max(1e-5, 2e-6 * largest)), name
    methods = [*(m for m, _, _ in parts), whole]
    for m in methods:
        m.after_step(0.5)
    return methods
