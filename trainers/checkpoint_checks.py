"""What must be in a checkpoint before anything of a run is changed by it: types, ranges, names and shapes.

torch's own loading copies what fits and complains afterwards, and an optimiser takes whatever it is given; the trouble would
show in a later step, when the run has half of one state and half of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from nnssl.trainers.trouble import NORMS

from nnssl.errors import NnsslError

DEVICE_SETTINGS = ("fused", "foreach")
"""Settings of an optimiser's group that belong to the device it runs on, and not to the run."""
MOST = 10**9
"""Epochs, steps, roll-backs: no run has more."""
_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
_BUFFERS: dict[str, frozenset[str]] = {
    "Adam": _ADAM, "AdamW": _ADAM, "RAdam": _ADAM, "Lamb": _ADAM - {"step"},
    "SGD": frozenset({"momentum_buffer"}), "Lars": frozenset({"momentum_buffer"}),
}  # fmt: skip
"""What an optimiser keeps of each parameter; of a class that is not here only shapes are compared."""


def check_checkpoint(
    content: Mapping[str, Any], method: torch.nn.Module, optimizer: torch.optim.Optimizer, scaler: Any
) -> None:
    """Refuse what this run cannot go on from.

    Args:
        content: of a checkpoint.
        method, optimizer, scaler: of this process; they are only looked at.

    Raises:
        NnsslError: the first thing that is wrong.
    """
    for key, kind in {
        "config": Mapping, "sums": Mapping, "history": list, "method_state": Mapping, "optimizer_state": Mapping,
    }.items():  # fmt: skip
        _must(isinstance(content.get(key), kind), f"{key} is {_kind(content.get(key))}")
    _check_place(content)
    for name, value in content["sums"].items():
        _must(_scalar(value), f"the sum of {_short(name)} is {_kind(value)}")
    rate = content.get("rate", 1.0)
    _must(_number(rate) and 0 < rate <= 1, f"its rate is {_short(rate)}")
    _must(_whole(content.get("rollbacks", 0)), f"its rollbacks are {_short(content.get('rollbacks'))}")
    _must(isinstance(content.get("init"), (Mapping, type(None))), f"init is {_kind(content.get('init'))}")
    if content.get("trouble") is not None:
        _check_trouble(content["trouble"])
    _check_state("method_state", content["method_state"], method.state_dict())
    _check_optimizer(content["optimizer_state"], optimizer)
    if scaler is not None and content.get("scaler_state") is not None:
        _check_scaler(content["scaler_state"], scaler.state_dict())


def _check_place(content: Mapping[str, Any]) -> None:
    for key, most in (("epoch", "epochs"), ("step", "iterations")):
        value, limit = content.get(key), content["config"].get(most)
        _must(_whole(value, limit if _whole(limit) else MOST), f"its {key} is {_short(value)}")
    history = content["history"]
    _must(len(history) == content["epoch"], f"it has {len(history)} rows of {content['epoch']} epochs")
    for i, row in enumerate(history):
        _must(isinstance(row, Mapping) and row.get("epoch") == i, f"row {i + 1} of its history is of no epoch")
        for key, value in row.items():
            plain = isinstance(key, str) and isinstance(value, (int, float, str, type(None)))
            _must(plain, f"{_short(key)} in its history is {_kind(value)}")


def _check_trouble(trouble: Any) -> None:
    shapes: dict[str, tuple[int, ...]] = {"streak": (), "longest": (), "first": (), "norms": (NORMS,)}
    known = {*shapes, "values", "names"}
    _must(isinstance(trouble, Mapping) and set(trouble) == known, f"its record of trouble has not {_listed(known)}")
    names = trouble["names"]
    _must(isinstance(names, list) and all(isinstance(n, str) for n in names), "names in its record of trouble")
    for key, shape in {**shapes, "values": (len(names),)}.items():
        value = trouble[key]
        right = isinstance(value, torch.Tensor) and tuple(value.shape) == shape
        right = right and value.dtype in ((torch.int64,) if shape == () else (torch.float32, torch.float64))
        _must(right, f"{key} in its record of trouble is {_kind(value)}")
        if shape == ():
            _must(int(value) >= (-1 if key == "first" else 0), f"{key} in its record of trouble is {int(value)}")


def _check_state(what: str, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Names, shapes and kinds of numbers are the run's own."""
    other = [k for k in state if k not in own] + [k for k in own if k not in state]
    _must(not other, f"{what} has other names than the run's method, such as {_short(other[0]) if other else ''}")
    for key, mine in own.items():
        value = state[key]
        same = isinstance(value, torch.Tensor) == isinstance(mine, torch.Tensor)
        if same and isinstance(mine, torch.Tensor):
            same = value.shape == mine.shape and _family(value) == _family(mine)
        _must(same, f"{what} has {_kind(value)} as {key}, the run {_kind(mine)}")


def _check_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    groups, state = saved.get("param_groups"), saved.get("state")
    _must(isinstance(groups, list) and isinstance(state, Mapping), "optimizer_state is none of an optimiser")
    assert isinstance(groups, list) and isinstance(state, Mapping)
    own = optimizer.param_groups
    _must(len(groups) == len(own), f"its optimiser has {len(groups)} groups of weights, the run's {len(own)}")
    parameters: dict[int, torch.Tensor] = {}
    for group, mine in zip(groups, own):
        numbers = group.get("params") if isinstance(group, Mapping) else None
        first = len(parameters)
        expected = list(range(first, first + len(mine["params"])))
        _must(numbers == expected, "the groups of its optimiser have other weights than the run's")
        _check_group(group, mine)
        parameters |= dict(zip(expected, mine["params"]))
    known = _BUFFERS.get(type(optimizer).__name__)
    for number, buffers in state.items():
        _must(type(number) is int and number in parameters, f"its optimiser remembers weight {_short(number)}")
        _must(isinstance(buffers, Mapping), f"its optimiser remembers {_kind(buffers)} of weight {number}")
        _must(known is None or set(buffers) == known, f"its optimiser is none of the run's ({_listed(buffers)})")
        for key, value in buffers.items():
            _check_buffer(str(key), value, parameters[number])


def _check_group(group: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for key, value in group.items():
        if key == "params" or key in DEVICE_SETTINGS:
            continue
        plain = [*value] if isinstance(value, (list, tuple)) else [value]
        right = isinstance(key, str) and all(isinstance(v, (bool, type(None), str)) or _number(v) for v in plain)
        mine = own.get(key)
        if mine is not None and key in own:
            several = isinstance(mine, (list, tuple))
            right = right and several == isinstance(value, (list, tuple))
            right = right and (not several or len(value) == len(mine))
            right = right and [isinstance(v, bool) for v in plain] == [isinstance(mine, bool)] * len(plain)
            # a switch turned over (maximize, amsgrad) is another optimiser
            right = right and (
                value == mine if isinstance(mine, (bool, str)) else all(_number(v) and v >= 0 for v in plain)
            )
        _must(right, f"{_short(key)} of its optimiser is {_short(value)}")
    for key in ("lr", "weight_decay"):
        _must(key not in own or key in group, f"its optimiser has no {key}")


def _check_buffer(key: str, value: Any, parameter: torch.Tensor) -> None:
    if key == "step":
        right = (_scalar(value) or _number(value)) and math.isfinite(float(value)) and 0 <= float(value) <= MOST**2
    elif value is None:
        right = key == "momentum_buffer"
    else:
        right = isinstance(value, torch.Tensor) and value.shape == parameter.shape and _family(value) == "float"
    shape = "x".join(str(n) for n in parameter.shape)
    _must(right, f"{_short(key)} of its optimiser is {_kind(value)} for a weight of {shape}")


def _check_scaler(saved: Any, own: Mapping[str, Any]) -> None:
    _must(isinstance(saved, Mapping) and (not own or set(saved) == set(own)), "scaler_state is none of a scaler")
    for key, value in saved.items():
        _must(_number(value) and 0 <= value < 2**64 and (value > 0 or key.startswith("_")), f"{key} is {_short(value)}")


def _must(right: bool, what: str) -> None:
    if not right:
        raise NnsslError(
            f"the run's checkpoint is damaged or edited, and nothing of it was taken: {what}. Put a copy back, or start the "
            "run again with --overwrite"
        )


def _whole(value: Any, most: int = MOST) -> bool:
    return type(value) is int and 0 <= value <= most


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 0 and _family(value) == "float"


def _family(value: torch.Tensor) -> str:
    if value.is_floating_point():
        return "float"
    return "complex" if value.is_complex() else "bool" if value.dtype == torch.bool else "whole"


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {'x'.join(str(n) for n in value.shape[:8]) or 'one'} {str(value.dtype)[6:]}"
    return "missing" if value is None else f"a {type(value).__name__}"


def _short(value: Any) -> str:
    if isinstance(value, (str, float, bool, type(None))) or _number(value):
        return str(value)[:60]
    return _kind(value)


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(_short(n) for n in names)[:8])
