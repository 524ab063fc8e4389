from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from nnssl.trainers.checkpoint import load_optimizer
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from torch import nn

from nnssl.methods.base import OptimizerName

NAMES = get_args(OptimizerName)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1))


def made(net: nn.Module, name: OptimizerName, fused: bool, momentum: float = 0.9) -> Any:
    return make_optimizer(name, parameter_groups(net.named_parameters(), 0.1), 0.05, fused=fused, momentum=momentum)


@pytest.mark.parametrize("name", NAMES)
def test_fused_where_torch_has_it_and_only_when_asked_for(name: OptimizerName) -> None:
    fused = {bool(group.get("fused")) for group in made(network(), name, fused=True).param_groups}
    assert fused == {name in ("adamw", "adam", "sgd")}
    assert not any(group.get("fused") for group in made(network(), name, fused=False).param_groups)


def trained(
    name: OptimizerName, fused: bool, momentum: float, moved: dict[str, Any] | None = None
) -> list[torch.Tensor]:
    """Weights after steps in which the second layer begins to learn one step after the first.

    `moved`: goes on with this state from the second step on.
    """
    net, draw = network(), torch.Generator().manual_seed(1)
    optimizer = made(net, name, fused, momentum)
    for step in range(4):
        if step == 2 and moved is not None:
            net.load_state_dict(moved["net"])
            load_optimizer(optimizer, moved["optimizer"])
        optimizer.zero_grad(set_to_none=True)
        net(torch.randn(8, 5, generator=draw)).square().mean().backward()
        if step == 0:
            for parameter in net[1].parameters():  # type: ignore[index]
                parameter.grad = None
        optimizer.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_computes_the_same(name: OptimizerName, momentum: float) -> None:
    for a, b in zip(trained(name, False, momentum), trained(name, True, momentum), strict=True):
        torch.testing.assert_close(a, b)


def test_a_run_that_was_saved_before_its_first_good_step_goes_on_fused() -> None:
    """Then there is no momentum in the file; and a first step that is skipped leaves none behind either."""
    net = network()
    saved = {"net": net.state_dict(), "optimizer": made(net, "sgd", fused=False).state_dict()}
    for a, b in zip(trained("sgd", False, 0.9, saved), trained("sgd", True, 0.9, saved), strict=True):
        torch.testing.assert_close(a, b)
    optimizer = made(net, "sgd", fused=True)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for parameter, value in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert not optimizer.state[parameter]["momentum_buffer"].any()
