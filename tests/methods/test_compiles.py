"""What torch.compile traces is one graph: no part of a forward pass falls back to Python. Tiles: tests/networks."""

from __future__ import annotations

import pytest
import torch

from tests.methods.cases import SHAPES, make_crops, make_method, seeded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_region", "simclr", "byol", "moco", "dino", "rotation"])
def test_one_graph(name: str) -> None:
    method = make_method(name, SHAPES["2d"]).train()
    views = method.views(make_crops(method), seeded())
    torch._dynamo.reset()
    total = torch.compile(method, fullgraph=True, backend="eager")(views).total
    total.backward()
    assert torch.isfinite(total.detach())
