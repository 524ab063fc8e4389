"""An optimiser's state that moves between devices and memory formats."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nnssl.trainers.checkpoint import load_optimizer
from nnssl.trainers.network import to_channels_last
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.trouble import StepGuard
from torch import nn


def stepped(fused: bool, channels_last: bool, steps: int = 2) -> tuple[nn.Module, Any]:
    """A convolution after some steps."""
    torch.manual_seed(0)
    network = nn.Conv3d(4, 6, 3)
    if channels_last:
        to_channels_last(network)
    optimizer = make_optimizer("adamw", parameter_groups(network.named_parameters(), 0.01), 1e-2, fused=fused)
    for _ in range(steps):
        step(network, optimizer)
    return network, optimizer


def step(network: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    network(torch.randn(1, 4, 5, 5, 5, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    # as on a GPU: the host does not ask, the optimiser gets a flag where it takes one
    guard = StepGuard(network, optimizer, ask=False)
    guard.before()
    guard.after(guard.optimise(torch.ones(())))


@pytest.mark.parametrize("now", [(True, True), (True, False), (False, True)], ids=["fused, last", "fused", "last"])
@pytest.mark.parametrize("then", [(True, True), (False, False)], ids=["was fused, last", "was plain"])
def test_a_run_goes_on_elsewhere(then: tuple[bool, bool], now: tuple[bool, bool]) -> None:
    """Fused kernels, and which memory a weight lies in, are the device's affair."""
    old, optimizer = stepped(*then)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(old.state_dict())
    new, again = stepped(*now, steps=0)
    new.load_state_dict(weights)
    load_optimizer(again, saved)
    assert {bool(group["fused"]) for group in again.param_groups} == {now[0]}
    for parameter, state in again.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
        assert int(state["step"]) == 2
    step(old, optimizer)
    step(new, again)
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert saved["param_groups"][0]["fused"] == (then[0] or None), "what was read is left as it is"
