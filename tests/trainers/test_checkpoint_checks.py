"""A checkpoint that somebody has changed, or that is of another run, is refused before the run has taken any of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnssl.trainers.checkpoint import RunState, pack, restore
from nnssl.trainers.optimisers import make_optimizer, parameter_groups
from nnssl.trainers.run_config import make_run_config

from nnssl.data.pool import Pool, PoolCase
from nnssl.errors import NnsslError
from tests.keeping.write_samples import method

CPU = torch.device("cpu")
CONFIG = make_run_config("denoising", {}, None, []).model_dump()


def started(name: str = "adamw", steps: int = 1) -> tuple[Any, Any, Any, Pool]:
    """A tiny run with some steps behind it."""
    model = method()
    optimizer = make_optimizer(name, parameter_groups(model.named_parameters(), 0.01), 1e-3)  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return model, optimizer, scaler, Pool(Path(), (PoolCase("a", "f", (8, 10, 9), False),))


def packed(run: tuple[Any, Any, Any, Pool]) -> dict[str, Any]:
    state = RunState(1, 2, {"loss": torch.tensor(0.5)}, [{"epoch": 0, "train_loss": 1.0, "note": None}])
    state.trouble.record(5, torch.tensor(True), torch.tensor(2.0), {"loss": torch.tensor(torch.nan)})
    model, optimizer, scaler, pool = run
    return copy.deepcopy({**pack(state, CONFIG, model, optimizer, scaler, pool), "init": None})


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value where the keys lead."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


WEIGHT = next(iter(method().state_dict()))
GROUP, BUFFERS = ("optimizer_state", "param_groups", 0), ("optimizer_state", "state", 0)
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "epoch of letters": (put("epoch", value="x"), "its epoch is x"),
    "epoch beyond the run": (put("epoch", value=10**6), "its epoch is 1000000"),
    "step before the run": (put("step", value=-(10**9)), "its step is -1000000000"),
    "step beyond the epoch": (put("step", value=251), "its step is 251"),
    "step that is a truth": (put("step", value=True), "its step is True"),
    "no rate": (put("rate", value=float("nan")), "its rate is nan"),
    "rate upwards": (put("rate", value=-0.5), "its rate is -0.5"),
    "roll-backs": (put("rollbacks", value=-1), "its rollbacks are -1"),
    "history": (put("history", value=[]), "0 rows of 1 epochs"),
    "row": (put("history", 0, value=7), "row 1 of its history"),
    "cell": (put("history", 0, "train_loss", value=[1]), "train_loss in its history is a list"),
    "sum": (put("sums", "loss", value=torch.zeros(3)), "the sum of loss is a tensor of 3 float32"),
    "init": (put("init", value="x"), "init is a str"),
    "no norms": (put("trouble", "norms", value=torch.zeros(0)), "norms in its record of trouble is a tensor of 0"),
    "a method": (put("trouble", value={"look": torch.zeros(())}), "its record of trouble has not first, longest"),
    "one more": (put("trouble", "look", value=torch.zeros(())), "its record of trouble has not first, longest"),
    "a streak": (put("trouble", "streak", value=torch.tensor(-3)), "streak in its record of trouble is -3"),
    "names": (put("trouble", "names", value=[1]), "names in its record of trouble"),
    "weights": (put("method_state", WEIGHT, value=torch.zeros(7)), "method_state has a tensor of 7 float32 as"),
    "weights of another kind": (
        lambda c: c["method_state"].update({WEIGHT: c["method_state"][WEIGHT].to(torch.complex64)}), "complex64 as",
    ),
    "a weight missing": (lambda c: c["method_state"].pop(WEIGHT), "other names than the run's method"),
    "a weight more": (put("method_state", "x", value=torch.zeros(1)), "other names than the run's method, such as x"),
    "another shape": (put(*BUFFERS, "exp_avg", value=torch.zeros(2)), "exp_avg of its optimiser is a tensor of 2"),
    "half an optimiser": (lambda c: c["optimizer_state"]["state"][0].pop("exp_avg_sq"), "none of the run's"),
    "no step": (put(*BUFFERS, "step", value=torch.tensor(torch.nan)), "step of its optimiser"),
    "a weight that is not there": (put("optimizer_state", "state", 99999, value={}), "remembers weight 99999"),
    "other groups": (lambda c: c["optimizer_state"]["param_groups"].pop(), "1 groups of weights, the run's 2"),
    "other weights": (put(*GROUP, "params", value=[0]), "other weights than the run's"),
    "upwards": (put(*GROUP, "maximize", value=True), "maximize of its optimiser is True"),
    "decay": (put(*GROUP, "weight_decay", value=float("inf")), "weight_decay of its optimiser is inf"),
    "betas": (put(*GROUP, "betas", value=(0.9,)), "betas of its optimiser"),
    "the scaler": (put("scaler_state", "scale", value=float("nan")), "scale is nan"),
    "settings": (put("config", value=[]), "config is a list"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_checkpoint_is_refused_as_a_whole(kind: str) -> None:
    change, said = CHANGES[kind]
    content = packed(started())
    change(content)
    *parts, pool = started(steps=3)
    before = copy.deepcopy([part.state_dict() for part in parts])
    with pytest.raises(NnsslError, match=said) as caught:
        restore(content, *parts, pool, CPU)
    assert "\n" not in str(caught.value) and "--overwrite" in str(caught.value)
    torch.testing.assert_close([part.state_dict() for part in parts], before)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("name", ["adamw", "adam", "radam", "sgd", "lars", "lamb"])
def test_every_optimisers_own_checkpoint_is_taken(name: str, steps: int) -> None:
    if name in ("lars", "lamb"):
        pytest.importorskip("timm")
    old = started(name, steps)
    *parts, pool = started(name, 2)
    state = restore(packed(old), *parts, pool, CPU)
    assert (state.epoch, state.step, state.trouble.names) == (1, 2, ["loss"])
    assert int(state.trouble.first) == 5 and state.trouble.look() == 1
    torch.testing.assert_close([part.state_dict() for part in parts], [part.state_dict() for part in old[:3]])
