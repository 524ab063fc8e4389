from __future__ import annotations

import pytest
import torch

from nnssl.losses.similarity import cosine_matrix
from tests.oracles.nt_xent import cosine


@pytest.mark.parametrize("shape", [(), (2,)])
def test_agrees_with_the_oracle(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(*shape, 3, 5, generator=g), torch.randn(*shape, 4, 5, generator=g)
    found = cosine_matrix(a, b)
    assert found.shape == (*shape, 3, 4)
    for one, two, f in zip(a.view(-1, 3, 5), b.view(-1, 4, 5), found.view(-1, 3, 4)):
        expected = [[cosine(x.numpy(), y.numpy()) for y in two] for x in one]
        assert torch.allclose(f, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_autocast_does_not_round() -> None:
    z = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(z, dim=1).T
        found = cosine_matrix(z, z)
    assert rounded.dtype == torch.bfloat16, "autocast rounds a plain matrix product"
    assert found.dtype == torch.float32
    assert torch.equal(found, cosine_matrix(z, z))


def test_a_zero_vector_is_similar_to_nothing() -> None:
    assert (cosine_matrix(torch.zeros(2, 4), torch.randn(3, 4)) == 0).all()
