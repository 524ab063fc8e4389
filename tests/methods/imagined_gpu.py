"""A GPU that is not there: its tensors have shapes but no numbers, so that whoever asks for a number is caught.

`FakeTensorMode` follows every operation by its shapes. Tensors of the CPU stay real here, as the small random numbers that
views draw are; what is moved to `cuda` becomes fake.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select",
         "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount",
         "aten::repeat_interleave.Tensor", "aten::allclose")  # fmt: skip
"""Operations whose answer, or its size, the host has to wait for."""


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
        if name in READS or name.split(".")[0] in READS:
            self.waits[name] += 1
        if name.startswith(("aten::_to_copy", "aten::copy_")) and self._waits_to_copy(name, args, kwargs, leaves):
            self.waits[f"{name} between CPU and GPU"] += 1
        if name.startswith(("aten::index.", "aten::index_put", "aten::_index_put")) and any(
            isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) and x.device.type == "cuda"
            for x in args[1]
        ):
            self.waits[f"{name} with a mask"] += 1
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
