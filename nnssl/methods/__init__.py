"""Self-supervised methods, one file each, and the table that names them.

A method from another package joins through the entry-point group `nnssl.methods` (name -> Method subclass).
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import entry_points

from nnssl.errors import NnsslError, did_you_mean
from nnssl.methods.base import CropBatch, Exported, Losses, Method, MethodConfig, Optimisation, Views
from nnssl.methods.composite import composite

METHODS: dict[str, str] = {
    "barlow_twins": "nnssl.methods.barlow_twins:BarlowTwins",
    "byol": "nnssl.methods.byol:BYOL",
    "dclw": "nnssl.methods.dclw:DCLW",
    "denoising": "nnssl.methods.denoising:Denoising",
    "dino": "nnssl.methods.dino:DINO",
    "flip": "nnssl.methods.flip:Flip",
    "ibot": "nnssl.methods.ibot:IBOT",
    "masked_region": "nnssl.methods.masked_region:MaskedRegion",
    "moco": "nnssl.methods.moco:MoCo",
    "models_genesis": "nnssl.methods.models_genesis:ModelsGenesis",
    "next_slice": "nnssl.methods.next_slice:NextSlice",
    "rotation": "nnssl.methods.rotation:Rotation",
    "simclr": "nnssl.methods.simclr:SimCLR",
    "simmim": "nnssl.methods.simmim:SimMIM",
    "simsiam": "nnssl.methods.simsiam:SimSiam",
    "smit": "nnssl.methods.smit:SMIT",
    "spark": "nnssl.methods.spark:SparK",
    "swav": "nnssl.methods.swav:SwAV",
    "swin_unetr_pretext": "nnssl.methods.swin_unetr_pretext:SwinUNETRPretext",
    "vicreg": "nnssl.methods.vicreg:VICReg",
    "voco": "nnssl.methods.voco:VoCo",
    "volume_fusion": "nnssl.methods.volume_fusion:VolumeFusion",
}
"""`-m` name -> `module:class`, as in an entry point. A new method is its file and its line here."""

ENTRY_POINT_GROUP = "nnssl.methods"


def method_table() -> dict[str, str]:
    """Name -> `module:class` of our methods and those of installed packages; ours win a tie."""
    return {**{e.name: e.value for e in entry_points(group=ENTRY_POINT_GROUP)}, **METHODS}


def method_names() -> list[str]:
    """Names that `-m` accepts: ours and those of installed packages."""
    return sorted(method_table())


@lru_cache
def _sum_of(parts: tuple[type[Method], ...]) -> type[Method]:
    """One class per sum, so that its settings compare as equal."""
    return composite(parts)


def get_method(name: str) -> type[Method]:
    """Method class by name; `a+b` is the weighted sum of two or more methods on one encoder.

    Raises:
        NnsslError: no such method, or what is registered under the name is not a Method.
    """
    if "+" in name:
        return _sum_of(tuple(get_method(part) for part in name.split("+")))
    table = method_table()
    if name not in table:
        raise NnsslError(
            f"unknown method '{name}'.{did_you_mean(name, sorted(table))} Known methods: {', '.join(sorted(table))}"
        )
    module, _, attribute = table[name].partition(":")
    try:
        loaded = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise NnsslError(f"method '{name}' ({table[name]}) cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise NnsslError(f"method '{name}' ({table[name]}) is not a subclass of nnssl.methods.Method")
    return loaded


__all__ = [
    "ENTRY_POINT_GROUP",
    "METHODS",
    "CropBatch",
    "Exported",
    "Losses",
    "Method",
    "MethodConfig",
    "Optimisation",
    "Views",
    "get_method",
    "method_names",
    "method_table",
]
