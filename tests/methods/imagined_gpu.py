"""A GPU that is not there: its tensors have shapes but no numbers, so that whoever asks for a number is caught.

`FakeTensorMode` follows every operation by its shapes. Tensors of the CPU stay real here, as the small random numbers that
views draw are; what is moved to `cuda` becomes fake. `HostReads` does what can be done without it: on a CPU it notes who
asks for a number.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select",
         "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount",
         "aten::repeat_interleave.Tensor", "aten::allclose")  # fmt: skip
"""Operations whose answer, or its size, the host has to wait for."""
WITHOUT_RULE = ("aten::_fused_sgd_",)
"""Operations in place that torch cannot follow by shapes; they change none."""


def is_read(name: str) -> bool:
    """Whether an operation is one of `READS`, with or without its overload's name."""
    return name in READS or name.split(".")[0] in READS


def masks(name: str, args: Any, device: str) -> bool:
    """Whether an operation picks elements by a mask on the device; how many these are, the host has to wait for."""
    return name.startswith(("aten::index.", "aten::index_put", "aten::_index_put")) and any(
        isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) and x.device.type == device
        for x in args[1]
    )


class HostReads(TorchDispatchMode):
    """Notes operations on a CPU whose answer a host would have to wait for on a GPU; backward passes run under it too.

    Attributes:
        places: "module function" of the innermost of ours that asked, or the operation's name where none did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_read(func.name()) or masks(func.name(), args, "cpu"):
            self.places[_caller() or func.name()] += 1
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    frame: Any = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in ("nnssl", "tests"):
            return f"{module} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


class ImaginedGPU(FakeTensorMode):
    """While it is active `cuda` can be used, and everything that would make the host wait for it is counted.

    Attributes:
        waits: name of the operation -> how often.
        operations: how many ran on the GPU.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(x, FakeTensor) or x == GPU for x in leaves if isinstance(x, torch.Tensor | torch.device)):
            return func(*args, **kwargs)  # of the CPU alone
        self.operations += 1
        name = func.name()
        if is_read(name):
            self.waits[name] += 1
        if name.startswith(("aten::_to_copy", "aten::copy_")) and self._waits_to_copy(name, args, kwargs, leaves):
            self.waits[f"{name} between CPU and GPU"] += 1
        if masks(name, args, "cuda"):
            self.waits[f"{name} with a mask"] += 1
        if name.split(".")[0] in WITHOUT_RULE:
            return None
        kwargs.pop("generator", None)  # there is none for a GPU that is not there, and fake numbers need none
        if func._overloadname == "generator":
            func = func.overloadpacket.default
        args, kwargs = tree_map(self._imagine, (args, kwargs))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _imagine(self, x: Any) -> Any:
        return self.from_tensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor) else x

    def _waits_to_copy(self, name: str, args: Any, kwargs: dict, leaves: list[Any]) -> bool:
        if name.startswith("aten::_to_copy"):
            source, target = args[0].device, kwargs.get("device") or args[0].device
            asynchronous = kwargs.get("non_blocking", False)
        else:
            target, source = args[0].device, args[1].device
            asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if torch.device(target).type == source.type:
            return False
        return not asynchronous or source.type == "cuda"  # what the host has asked for, it wants to read


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its parameters and buffers on the imagined GPU, each still one tensor under all of its names."""
    known: dict[int, torch.Tensor] = {}

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in known:
            fake = tensor.detach().to(GPU, non_blocking=True)
            known[id(tensor)] = (
                torch.nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else fake
            )
        return known[id(tensor)]

    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    table[key] = move(tensor)  # type: ignore[assignment]
    return module


def imagine(monkeypatch: pytest.MonkeyPatch) -> ImaginedGPU:
    """For a fixture. torch makes no generator for a device that is not there; what it would draw is imagined anyway."""
    try:
        with ImaginedGPU():
            torch.ones(3).to(GPU, non_blocking=True)[[0, 1]]
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        pytest.skip(f"torch {torch.__version__} asks the driver for the imagined GPU")  # 2.6 does, newer ones do not
    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": real("cpu"))
    return ImaginedGPU()
