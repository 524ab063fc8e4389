"""What torch.compile traces is one graph: no part of a forward pass falls back to Python. Encoders: tests/networks."""

from __future__ import annotations

import pytest
import torch

from nnssl.methods import Method
from nnssl.methods.sparse_encoding import SparseEncoding
from nnssl.networks.checkpointing import checkpoint_stages
from tests.methods.cases import SHAPES, make_crops, make_method, seeded


def one_graph(method: Method) -> None:
    views = method.views(make_crops(method), seeded())
    torch._dynamo.reset()
    total = torch.compile(method, fullgraph=True, backend="eager")(views).total
    total.backward()
    assert torch.isfinite(total.detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_region", "simmim", "simclr", "byol", "moco", "dino", "rotation"])
def test_one_graph(name: str) -> None:
    one_graph(make_method(name, SHAPES["2d"]).train())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["2d", "3d", "anisotropic"])
@pytest.mark.parametrize("executor", ["tiles", "dense"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_spark_is_one_graph(shape: str, executor: str, checkpointing: bool) -> None:
    method = make_method("spark", SHAPES[shape]).train()
    assert isinstance(method, SparseEncoding)
    method.use_executor(executor)  # type: ignore[arg-type]
    if checkpointing:
        assert checkpoint_stages(method) > 2
    one_graph(method)
