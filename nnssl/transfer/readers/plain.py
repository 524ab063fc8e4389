"""Plain state dicts of nnU-Net's U-Nets: bare, or under `state_dict`, `model`, ... with the names of some other code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.loading import TENSORS
from nnssl.transfer.names import Tensors, dense_tensors, first_names, only_unet, rename, shown, strip_wrappers
from nnssl.transfer.readers import primus
from nnssl.transfer.source import Pretraining, Weights

HOLDERS = (
    TENSORS,
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "network",
    "net",
    "teacher",
    "student",
    "encoder",
)
_STAGE = re.compile(r"^(?P<prefix>.*?)(?P<encoder>encoder\.)?stages\.0\.(blocks\.0\.conv1|0\.convs\.0)\.")


def state_dict(content: Mapping[str, Any], where: str) -> Tensors:
    """The tensors of a file, and none of an optimiser's.

    Raises:
        NnsslError: there are none, or several networks and no way to choose.
    """
    own = dense_tensors(content, where)
    if own:
        return own
    found = {k: dense_tensors(content[k], where) for k in HOLDERS if isinstance(content.get(k), Mapping)}
    found = {k: v for k, v in found.items() if v}
    if len(found) > 1:
        raise NnsslError(f"{where} holds several networks ({', '.join(found)}): save the one you want by itself")
    if not found:
        keys = f"its top level holds {shown(content)}" if content else "it is empty"
        raise NnsslError(f"{where} holds no weights that could be found: {keys}; expected one of {', '.join(HOLDERS)}")
    return next(iter(found.values()))


def read(content: Mapping[str, Any], where: str, key_prefix: str | None = None) -> Weights:
    """Weights under nnU-Net's names; prefixes are taken off where there is only one way to do so.

    Args:
        content: the file's.
        where: the file, for errors.
        key_prefix: `OLD[=NEW][,OLD=NEW...]`, see `nnssl.transfer.names.rename`.

    Raises:
        NnsslError: no U-Net of nnU-Net's, or several, or two names of a tensor differ.
    """
    tensors, notes = strip_wrappers(state_dict(content, where))
    if key_prefix:
        tensors, said = rename(tensors, key_prefix, where)
        notes += said
    if primus.is_primus(tensors):
        return primus.weights("state dict", tensors, {}, Pretraining(), notes, (), where)
    tensors, said = _unprefixed(tensors, where, chosen=key_prefix is not None)
    notes += said
    # MIC-DKFZ/nnssl writes checkpoints of its SparK without the plan that would tell them
    spark = "spark" in str(content.get("trainer_name", "")).lower()
    tensors, said = first_names(tensors, where, trust_second=spark)
    notes += said
    tensors, said = only_unet(tensors)
    channels = int(tensors[input_projection(tensors)].shape[1])
    return Weights("state dict", tensors, None, channels, notes=(*notes, *said))


def _unprefixed(tensors: Tensors, where: str, chosen: bool) -> tuple[Tensors, list[str]]:
    """Take off what stands in front of `encoder.` and `decoder.`, or put `encoder.` in front of a bare encoder.

    Args:
        tensors: without wrappers in their names.
        where: the file, for errors.
        chosen: the user has said which names are the encoder's, so others under other names do not matter.

    Raises:
        NnsslError: no encoder, or several.
    """
    found = {
        (m["prefix"], m["encoder"] or "") for k in tensors if (m := _STAGE.match(k)) and not _in_decoder(m["prefix"])
    }
    if chosen and ("", "encoder.") in found:
        found = {("", "encoder.")}
    if not found:
        raise NnsslError(
            f"{where}: no encoder of nnU-Net's (names with encoder.stages.0.) among {len(tensors)} tensors; the first are "
            f"{shown(tensors)}. If one is there under other names, say so with --key-prefix OLD=NEW, for example "
            "--key-prefix backbone.=encoder."
        )
    if len(found) > 1:
        ways = [f"--key-prefix {p}{e}=encoder." for p, e in sorted(found)]
        raise NnsslError(f"{where} holds {len(found)} encoders: choose one with {' or '.join(ways)}")
    prefix, encoder = next(iter(found))
    if not encoder:
        moved = {f"encoder.{k[len(prefix) :]}": v for k, v in tensors.items() if k.startswith(prefix)}
        what = (
            f"'{prefix}' in front of its names became 'encoder.'"
            if prefix
            else "'encoder.' was put in front of its names"
        )
        return moved, [f"the file holds a bare encoder: {what}"]
    if not prefix:
        return tensors, []
    moved = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    others = len(tensors) - len(moved)
    also = f"; {others} tensors without it are left out" if others else ""
    return moved, [f"'{prefix}' was taken off the names{also}"]


def _in_decoder(prefix: str) -> bool:
    return prefix.endswith("decoder.") or prefix.startswith("decoder.") or ".decoder." in prefix
