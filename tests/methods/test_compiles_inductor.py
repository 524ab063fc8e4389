"""Compiled by inductor, torch's default backend and the one of training runs: loss and gradients are those of eager mode."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from nnssl.methods import Method
from nnssl.methods.sparse_encoding import SparseEncoding
from tests.methods.cases import SHAPES, liven, make_crops, make_method, seeded


@cache
def why_not() -> str:
    """Why inductor cannot compile for a CPU here; empty where it can."""
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64))
    except torch._dynamo.exc.BackendCompilerFailed as error:  # no C++ compiler, or none that finds Python's headers
        return " ".join(str(error).split())[:200]
    return ""


def gradients(method: Method, network: torch.nn.Module, views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss, and what it leaves in the parameters."""
    method.zero_grad(set_to_none=True)
    total = network(views).total
    total.backward()
    found = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
    return {"": total.detach(), **found}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "executor"), [("spark", "tiles"), ("masked_region", "")])
def test_inductor_is_eager(name: str, executor: str) -> None:
    if why_not():
        pytest.skip(f"inductor compiles nothing here: {why_not()}")
    method = make_method(name, SHAPES["2d"]).train()
    liven(method)
    if isinstance(method, SparseEncoding):
        method.use_executor(executor)  # type: ignore[arg-type]
    views = method.views(make_crops(method), seeded())
    wanted = gradients(method, method, views)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = gradients(method, torch.compile(method, fullgraph=True), views)
    counters = torch._dynamo.utils.counters
    assert counters["aot_autograd"]["ok"] == 1 and not counters["graph_break"]
    scale = max(float(g.abs().max()) for k, g in wanted.items() if k)
    assert scale > 1e-4, "a gradient of zero would agree with anything"
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-5 * scale), key
