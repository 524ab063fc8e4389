from __future__ import annotations

import pytest
import torch

from nnssl.losses.collapse import effective_rank, embedding_std, knn_agreement
from tests.oracles import collapse as oracle


def draw(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 5), (6, 4), (9, 20)])
def test_agree_with_the_oracles(shape: tuple[int, int]) -> None:
    z1, z2 = draw(*shape) + 0.5, draw(*shape, seed=1)
    assert embedding_std(z1) == pytest.approx(oracle.embedding_std(z1.numpy()), rel=1e-4)
    assert effective_rank(z1) == pytest.approx(oracle.effective_rank(z1.double().numpy()), rel=1e-3)
    near = z1 + z2
    assert knn_agreement(z1, near) == oracle.knn_agreement(z1.numpy(), near.numpy())


def test_embeddings_all_over_the_sphere() -> None:
    z = draw(400, 32)
    assert embedding_std(z) == pytest.approx(1, abs=0.02)
    assert effective_rank(z) > 30
    assert effective_rank(draw(8, 100)) == pytest.approx(7, abs=0.1), "centred, eight rows span seven dimensions"


def test_a_point_has_no_spread_and_rank_one() -> None:
    z = torch.ones(8, 16) * 3
    assert embedding_std(z) == pytest.approx(0, abs=1e-5)
    assert effective_rank(z) == pytest.approx(1, abs=0.05)
    assert knn_agreement(z, z) == 1 / 8, "chance"


def test_a_line_has_spread_and_rank_one() -> None:
    z = torch.outer(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]), draw(1, 16)[0])
    assert embedding_std(z) > 0.8
    assert effective_rank(z) == pytest.approx(1, abs=1e-3)


def test_directions_that_are_equally_strong_are_counted() -> None:
    three = torch.eye(16)[:3]
    assert effective_rank(torch.cat([three, -three])) == pytest.approx(3, abs=1e-6)


def test_lengths_do_not_matter() -> None:
    z, factor = draw(6, 5), torch.tensor([[1.0], [2.0], [0.1], [5.0], [1.0], [30.0]])
    for metric in (embedding_std, effective_rank):
        assert metric(z * factor) == pytest.approx(metric(z), rel=1e-5)


def test_agreement_follows_the_pairing() -> None:
    z = draw(6, 12)
    assert knn_agreement(z, 2 * z) == 1
    assert knn_agreement(z, z.roll(1, 0)) == 0
    half = z.clone()
    half[:3] = z[:3].roll(1, 0)
    assert knn_agreement(z, half) == 0.5
