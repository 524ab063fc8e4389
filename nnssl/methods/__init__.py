"""Self-supervised methods, one file each, and the table that names them.

A method from another package joins through the entry-point group `nnssl.methods` (name -> Method subclass).
"""

from __future__ import annotations

from importlib.metadata import entry_points

from nnssl.errors import NnsslError, did_you_mean
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.methods.masked_region import MaskedRegion

METHODS: dict[str, type[Method]] = {
    "masked_region": MaskedRegion,
}

ENTRY_POINT_GROUP = "nnssl.methods"


def method_names() -> list[str]:
    """Names that `-m` accepts: ours and those of installed packages."""
    return sorted({*METHODS, *(e.name for e in entry_points(group=ENTRY_POINT_GROUP))})


def get_method(name: str) -> type[Method]:
    """Method class by name.

    Raises:
        NnsslError: no such method, or what is registered under the name is not a Method.
    """
    if name in METHODS:
        return METHODS[name]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            loaded = entry.load()
            if not (isinstance(loaded, type) and issubclass(loaded, Method)):
                raise NnsslError(f"entry point '{name}' ({entry.value}) is not a subclass of nnssl.methods.Method")
            return loaded
    known = method_names()
    raise NnsslError(f"unknown method '{name}'.{did_you_mean(name, known)} Known methods: {', '.join(known)}")


__all__ = [
    "ENTRY_POINT_GROUP",
    "METHODS",
    "CropBatch",
    "Exported",
    "Losses",
    "MaskedRegion",
    "Method",
    "MethodConfig",
    "Optimisation",
    "Views",
    "get_method",
    "method_names",
]
