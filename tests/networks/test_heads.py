from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.networks.heads import MLPHead, Prototypes


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def kinds(head: MLPHead) -> list[type]:
    return [type(m) for m in head]


def test_layers_norms_and_widths() -> None:
    head = MLPHead(6, 5, 3, layers=3, norm="layer")
    assert kinds(head) == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [(6, 5), (5, 5), (5, 3)]
    assert kinds(MLPHead(6, 5, 3, layers=1)) == [nn.Linear]
    assert kinds(MLPHead(6, 5, 3, norm="none")) == [nn.Linear, nn.ReLU, nn.Linear]
    assert kinds(MLPHead(6, 5, 3, norm="batch", last_norm=True))[-2:] == [nn.Linear, nn.BatchNorm1d]


def test_a_bias_stands_where_no_norm_takes_it_away() -> None:
    def biases(**options: object) -> list[bool]:
        return [m.bias is not None for m in MLPHead(6, 5, 3, **options) if isinstance(m, nn.Linear)]  # type: ignore

    assert biases(norm="layer") == [False, True]
    assert biases(norm="none") == [True, True]
    assert biases(norm="batch", last_norm=True) == [False, False]
    assert biases(norm="none", last_norm=True) == [True, True]
    assert biases(norm="layer", last_bias=False) == [False, False]


def test_the_last_norm_has_nothing_to_learn() -> None:
    head = MLPHead(6, 5, 3, norm="batch", last_norm=True)
    assert not list(head[-1].parameters())
    z = head(torch.randn(50, 6))
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_a_row_does_not_depend_on_the_others(norm: str) -> None:
    head = MLPHead(6, 5, 3, norm=norm, last_norm=True)  # type: ignore[arg-type]
    x = torch.randn(4, 6)
    assert torch.allclose(head(x)[:1], head(x[:1]), atol=1e-6)


def test_with_batch_norm_it_does() -> None:
    head = MLPHead(6, 5, 3, norm="batch")
    x = torch.randn(4, 6)
    assert not torch.allclose(head(x)[:2], head(x[:2]), atol=1e-3)


def test_prototypes_give_cosines() -> None:
    prototypes = Prototypes(4, 3)
    z = torch.randn(5, 2, 4)
    scores = prototypes(z)
    assert scores.shape == (5, 2, 3)
    expected = torch.cosine_similarity(z[:, :, None], prototypes.weight[None, None], dim=-1)
    assert torch.allclose(scores, expected, atol=1e-6)
    assert torch.allclose(prototypes(7 * z), scores, atol=1e-6)
    assert torch.allclose(prototypes.weight.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("frozen", [0.0, 1.0])
def test_frozen_prototypes_answer_the_same_and_get_a_gradient_of_zero(frozen: float) -> None:
    prototypes, z = Prototypes(4, 3), torch.randn(5, 4, requires_grad=True)
    scores = prototypes(z, torch.tensor(frozen))
    assert torch.equal(scores, prototypes(z))
    scores.square().sum().backward()
    assert prototypes.weight.grad is not None, "distributed training waits for every gradient"
    assert (prototypes.weight.grad.abs().sum() == 0) == bool(frozen)
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_prototypes_are_compared_in_float32_within_autocast() -> None:
    prototypes, z = Prototypes(64, 3), torch.randn(5, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = prototypes(z)
    assert torch.equal(scores, prototypes(z))
