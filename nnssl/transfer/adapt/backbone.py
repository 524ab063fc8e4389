"""From the names of an image backbone's file to those of the encoder of a `TimmUNet`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.names import Tensors, shown

PREFIX = "encoder.backbone."
DEEPEST_PREFIX = 4
"""Words that wrappers of a backbone are looked for in, as in `module.encoder_q.backbone.net.`"""
NATURAL = (
    "weights of a 2D image backbone: as a rule trained on RGB images scaled by ImageNet's mean and standard deviation; "
    "nnU-Net normalises images by its own scheme"
)


def encoder_names(
    source: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor], backbone: str, where: str
) -> tuple[Tensors, list[str]]:
    """A backbone's tensors under the names of the target's encoder.

    timm's feature extractors join the names of nested modules (`stem.0` -> `stem_0`), and self-supervised trainings put
    something in front of them. Both are undone by what the target's own names are.

    Args:
        source: under the file's names.
        fresh: state of the target.
        backbone: name of the target's timm model.
        where: the file, for errors.

    Returns:
        Tensors under `encoder.backbone.`, and notes: the prefix, and what of the file is left out.

    Raises:
        NnsslError: no tensor of the file is one of that backbone's, several networks are, or shapes differ.
    """
    wanted = {key.removeprefix(PREFIX): value for key, value in fresh.items() if key.startswith(PREFIX)}
    prefix, found = _best(source, wanted, where)
    weights = sum(v.ndim > 1 for v in wanted.values())
    if sum(wanted[k].ndim > 1 for k in found) < weights:
        filtered = _by_timm(source, prefix, backbone)
        again = _matched(filtered, "", wanted)
        if len(again) > len(found):
            source, prefix, found = filtered, "", again
    if not any(wanted[k].ndim > 1 for k in found):
        raise NnsslError(
            f"the file's names are none of a {backbone}'s, which the target's plans want as encoder: the file has "
            f"{shown(source)}, a {backbone} {shown(wanted)}. If it is one under other names: --key-prefix OLD=NEW"
        )
    _check_shapes(source, found, wanted, backbone)
    taken = {f"{PREFIX}{key}": source[name] for key, name in found.items()}
    notes = [NATURAL]
    if prefix:
        notes.append(f"'{prefix}' was taken off the names")
    left = sorted({name.removeprefix(prefix).split(".")[0] for name in source if name not in found.values()})
    if left:
        said = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
        notes.append(f"left out, because the encoder has nothing of the kind (a classifier, heads): {said}")
    return taken, notes


def _best(source: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> tuple[str, dict[str, str]]:
    """The prefix under which most of the wanted names are, and target name -> the file's."""
    counts = {prefix: len(_matched(source, prefix, wanted)) for prefix in _prefixes(source)}
    most = max(counts.values(), default=0)
    if not most:
        return "", {}
    best = sorted((p for p, n in counts.items() if n == most), key=len)
    # model. and model.net. are the same place, when the target's names may begin with the rest
    several = [p for p in best if not any(p != q and (p.startswith(q) or q.startswith(p)) for q in best)]
    if len(several) > 1:
        ways = " or ".join(f"--key-prefix {p}" for p in several)
        raise NnsslError(f"{where} holds {len(several)} such networks: choose one with {ways}")
    return best[0], _matched(source, best[0], wanted)


def _prefixes(names: Iterable[str]) -> Counter[str]:
    found: Counter[str] = Counter([""])
    for name in names:
        words = name.split(".")
        for depth in range(1, min(DEEPEST_PREFIX, len(words) - 1) + 1):
            found[".".join(words[:depth]) + "."] += 1
    return found


def _matched(source: Mapping[str, Any], prefix: str, wanted: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in source:
        if not name.startswith(prefix):
            continue
        bare = name[len(prefix) :]
        joined = bare.replace(".", "_", 1)
        key = next((k for k in (bare, joined, joined.replace(".", "_", 1), f"model.{bare}") if k in wanted), None)
        if key is not None:
            found[key] = name
    return found


def _by_timm(source: Mapping[str, torch.Tensor], prefix: str, backbone: str) -> Tensors:
    """The file's tensors as timm's own conversion for that family of models has them, where it has one."""
    import timm

    tensors = {k[len(prefix) :]: v for k, v in source.items() if k.startswith(prefix)}
    with torch.device("meta"):
        model = timm.create_model(backbone)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(dict(tensors), model))
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError, AssertionError):
        return tensors  # made for other files than this one: the names as they are then decide


def _check_shapes(
    source: Mapping[str, torch.Tensor], found: Mapping[str, str], wanted: Mapping[str, torch.Tensor], backbone: str
) -> None:
    for key, name in found.items():
        a, b = source[name].shape, wanted[key].shape
        if a != b and not (len(a) == len(b) == 4 and a[0] == b[0] and a[2:] == b[2:]):
            raise NnsslError(
                f"the file's network is not the target's {backbone}: {name} has {tuple(a)}, {tuple(b)} is wanted. "
                "Plan the target with --encoder and the name of the file's network"
            )
