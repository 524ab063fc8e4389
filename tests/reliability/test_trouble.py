"""A step whose numbers are not finite changes nothing, on every path, and is on record."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.recovery import check_health
from nnssl.trainers.trouble import NORMS, StepGuard, Trouble, all_finite, marked
from torch import nn

from nnssl.errors import NnsslError
from nnssl.methods.base import OptimizerName

STEPS = 5


class Tiny(nn.Module):
    """A network with running statistics, and a queue that every forward pass writes."""

    queue: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
        self.register_buffer("queue", torch.zeros(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.queue[0] = x[0].detach()
        return self.layers(x).square().mean()


def trained(name: OptimizerName, bad: set[int], ask: bool | None, fused: bool = False) -> list[torch.Tensor]:
    """Parameters, buffers and optimiser state after some steps, of which the bad ones see NaN."""
    net = Tiny()
    optimizer = make_optimizer(name, parameter_groups(net.named_parameters(), 0.1), 0.05, fused=fused, momentum=0.9)
    guard = StepGuard(net, optimizer, ask)
    draw = torch.Generator().manual_seed(1)
    good_data = [torch.randn(8, 4, generator=draw) for _ in range(STEPS)]
    for n in sorted({*range(STEPS)} | bad):
        x = torch.full((8, 4), torch.nan) if n in bad else good_data[n]
        guard.before()
        optimizer.zero_grad(set_to_none=True)
        marked(net(x)).backward()
        parameters = list(net.parameters())
        good = guard.optimise(nn.utils.clip_grad_norm_(parameters, 1.0))
        guard.after(good)
        assert bool(good) == (n not in bad)
    state = [v for p in net.parameters() for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
    return [t.detach() for t in (*net.parameters(), *net.buffers(), *state)]


@pytest.mark.parametrize(
    ("name", "ask", "fused"),
    [
        ("adamw", True, False),
        ("adamw", False, True),
        ("sgd", False, False),
        ("sgd", False, True),
        ("lars", False, False),
        ("lamb", True, False),
    ],
)
def test_a_bad_step_leaves_no_trace(name: OptimizerName, ask: bool, fused: bool) -> None:
    """Asked on the host, told to a fused optimiser, put back behind another: as if the step had not been there."""
    clean = trained(name, set(), ask, fused)
    assert all(torch.equal(a, b) for a, b in zip(clean, trained(name, {STEPS}, ask, fused), strict=True))
    assert all(bool(torch.isfinite(t.float()).all()) for t in trained(name, {0, 2}, ask, fused))


def test_the_ways_to_skip_agree() -> None:
    asked, told = trained("adamw", {1, 3}, True), trained("adamw", {1, 3}, False)
    # an unfused Adam counts a step that is put back: the bias correction is all that may differ
    assert all(torch.allclose(a, b, rtol=0.2, atol=0.05) for a, b in zip(asked[:4], told[:4]))
    assert all(
        torch.equal(a, b) for a, b in zip(trained("sgd", {1, 3}, True), trained("sgd", {1, 3}, False), strict=True)
    )


def test_marking_changes_no_gradient_but_that_of_a_loss_that_is_not_finite() -> None:
    x = torch.tensor([1.5, -2.25, 1e-30], requires_grad=True)
    plain = torch.autograd.grad((x.square() * 0.1).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(marked((x.square() * 0.1).sum()), x)[0], plain)
    infinite = x.sum() + torch.tensor(math.inf)
    assert torch.isfinite(torch.autograd.grad(x.sum() + torch.tensor(math.inf), x)[0]).all(), (
        "the gradient does not show it"
    )
    assert torch.autograd.grad(marked(infinite), x)[0].isnan().all()


def test_the_record() -> None:
    trouble = Trouble(torch.device("cpu"))

    def step(number: int, bad: bool, norm: float = 1.0) -> None:
        mse = torch.tensor(math.nan if bad else 0.5)
        losses = {"train_loss": mse, "mse": mse, "kl": torch.tensor(2.0)}
        trouble.record(number, torch.tensor(bad), torch.tensor(norm), losses, enough=3)

    for n in range(40):
        step(n, n in (3, 4, 9), norm=float(n))
    assert trouble.look() == 2
    assert trouble.look() == 0, "a look forgets what it has seen"
    for n in range(40, 45):
        step(n, n >= 42, norm=math.inf if n >= 42 else float(n))
    step(45, False)
    step(46, True)  # a later, shorter streak is not what the diagnosis is about
    assert trouble.look() == 3
    text = trouble.diagnosis(47, ["case_1", "case_1", "case_2"])
    assert "from step 42 on" in text
    assert "train_loss (nan), mse (nan)" in text and "kl" not in text
    assert text.endswith("cases of that step: case_1, case_2")
    assert ": 34, 35, 36, 37, 38, 39, 40, 41;" in text

    restored = Trouble.restored(trouble.content(), torch.device("cpu"))
    losses = {name: torch.tensor(1.0) for name in ("train_loss", "mse", "kl")}
    restored.record(47, torch.tensor(True), torch.tensor(math.inf), losses)
    assert restored.look() == 2, "a streak goes on over a continuation"
    assert "train_loss (nan), mse (nan)" in restored.diagnosis(48)
    assert len(restored.norms) == NORMS


def test_nobody_leaves_a_sick_run_before_it_is_saved() -> None:
    done: list[str] = []
    trainer = SimpleNamespace(
        run=SimpleNamespace(on_collapse="stop"),
        method=SimpleNamespace(health=lambda row: ["collapsed"] if row["std"] < 0.1 else []),
        state=SimpleNamespace(epoch=3, history=[{"std": 0.01}] * 3),
        output_folder="run",
        is_ddp=True,
        save_checkpoint=lambda _: done.append("saved"),
        _signal_vote=SimpleNamespace(meet=lambda: done.append("met")),
    )
    with pytest.raises(NnsslError, match="for 3 epochs collapsed"):
        check_health(trainer)  # type: ignore[arg-type]
    assert done == ["saved", "met"]
    trainer.state.history[0] = {"std": 0.5}
    check_health(trainer)  # type: ignore[arg-type]
    assert done == ["saved", "met"]


def test_old_checkpoints_have_no_record() -> None:
    assert Trouble.restored(None, torch.device("cpu")).look() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_all_finite(value: float) -> None:
    numbers = torch.tensor([3e38, -3e38, 0.0])
    whole = torch.arange(3)
    assert all_finite([numbers, whole, torch.zeros(0)])
    assert all_finite([whole])
    assert not all_finite([numbers, torch.tensor([[1.0, value]])])
