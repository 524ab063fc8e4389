"""Everything about a file of weights that can be recomputed, recomputed: `nnssl_inspect FILE --verify`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from nnssl.errors import NnsslError
from nnssl.transfer.adapt.keys import first_name, is_second_name
from nnssl.transfer.architecture import check_names, contradiction
from nnssl.transfer.digests import changed
from nnssl.transfer.loading import TENSORS, load_content, no_surprise
from nnssl.transfer.readers import ours
from nnssl.transfer.reading import interpret

_PATH = re.compile(r"(?:^|[\s'\"=(\[,])(?:file:/{1,3}|~?/(?!/)|[A-Za-z]:[\\/]|\\\\)[^\s/\\]+[/\\][^\s'\",)]*")
_IMAGE = re.compile(r"[^\s/\\]+\.(?:nii(?:\.gz)?|nrrd|nhdr|mha|mhd|dcm|b2nd|npz|tiff?)\b", re.IGNORECASE)
_NAMING = {"train_cases", "val_cases", "cases_to_fine_tune", "case_names", "case_identifiers", "subjects", "splits"}
"""Keys under which names of cases stand in nnssl's own blocks of plans and fingerprints."""


def verify_file(path: Path | str, names: Collection[str] = ()) -> list[str]:
    """Check a file of weights and say what was checked.

    Loading alone checks that no code would run and that no tensor is larger than its bytes. Then: digests of the tensors
    (files of nnssl), the two names of each tensor, the adaptation plan against the tensors, and privacy: no absolute paths,
    no names of images or cases.

    Args:
        path: the file.
        names: case names that must not be in the file.

    Returns:
        A line per check that the file has passed, or could not be asked.

    Raises:
        NnsslError: a check failed, all failures in its text; or the file cannot be read.
    """
    content = load_content(path)
    with no_surprise(str(path)):
        return _verified(content, path, names)


def _verified(content: Mapping[str, Any], path: Path | str, names: Collection[str]) -> list[str]:
    lines = ["read without running code; every tensor is as large as its bytes"]
    wrong: list[str] = []
    found = list(_private(content, names))
    if any(k in content for k in ("nnssl_format", "nnssl_load_report")):  # files that are made to be handed on
        wrong += [f"privacy: {f}" for f in found]
    else:
        lines += [f"do not hand this file on: {f}" for f in found]
    if not found:
        lines.append("no absolute paths, no names of images or cases")
    checks = []
    if "nnssl_checkpoint" not in content:
        weights = content.get(TENSORS)
        if isinstance(weights, Mapping):
            checks += [_digests(content), _aliases(weights)]
        checks.append(_plan(content, path) if "nnssl_adaptation_plan" in content else _reads(content, path))
    for passed, failed in checks:
        lines += passed
        wrong += failed
    if wrong:
        raise NnsslError(f"{path} fails verification:\n" + "\n".join(f"  {w}" for w in wrong))
    return lines


Outcome = tuple[list[str], list[str]]
"""Lines of what passed, lines of what failed."""


def _digests(content: Mapping[str, Any]) -> Outcome:
    if "digests" not in content:
        return ["no digests in the file: whether the weights are those that were written cannot be told"], []
    differing = changed(content[TENSORS], content["digests"])
    if differing:
        return [], [f"{len(differing)} tensors are not what their digests say: {', '.join(differing[:3])}"]
    return [f"{len(content['digests'])} digests recomputed, all as written"], []


def _aliases(weights: Mapping[str, torch.Tensor]) -> Outcome:
    pairs = [(first_name(k), k) for k in weights if is_second_name(k) and first_name(k) in weights]
    apart = [(a, b) for a, b in pairs if not torch.equal(weights[a], weights[b])]
    if apart:
        return [], [f"{len(apart)} tensors have two names that differ, first {apart[0][0]} and {apart[0][1]}"]
    return [f"{len(pairs)} second names hold the same values as the first"] if pairs else [], []


def _plan(content: Mapping[str, Any], path: Path | str) -> Outcome:
    """The adaptation plan: its network built and compared with the tensors; parts and channels where it says they are."""
    plan, weights = content["nnssl_adaptation_plan"], content[TENSORS]
    wrong = [
        f"{key} = {plan.get(key)}: no tensor begins so"
        for key in ("key_to_encoder", "key_to_stem")
        if not any(k.startswith(f"{plan.get(key)}.") for k in weights)
    ]
    first = [weights.get(f"{k}.weight") for k in plan.get("keys_to_in_proj") or ()]
    if not first or any(t is None for t in first):
        wrong.append(f"keys_to_in_proj = {plan.get('keys_to_in_proj')}: not all of these are there")
    elif any(t.shape[1] != plan.get("pretrain_num_input_channels") for t in first):
        wrong.append(
            f"{plan.get('pretrain_num_input_channels')} input channels are said, the tensors have {first[0].shape[1]}"
        )
    if not ours.recognises(content):
        _, failed = _reads(content, path)
        return [] if wrong + failed else ["the adaptation plan fits the tensors"], wrong + failed
    described = plan["architecture_plans"]
    architecture = {
        "network_class_name": described["arch_class_name"],
        "arch_kwargs": described["arch_kwargs"],
        "_kw_requires_import": described["arch_kwargs_requiring_import"],
    }
    try:
        check_names(architecture, str(path))
    except NnsslError as error:  # a network of the user's own, perhaps; it is not built on a file's word
        return [f"network not compared: {error}"], wrong
    differs = contradiction(architecture, weights)
    if differs:
        wrong.append(f"the described network is not that of the tensors: {differs}")
    return [] if wrong else ["the adaptation plan fits the tensors: network built, every shape compared"], wrong


def _reads(content: Mapping[str, Any], path: Path | str) -> Outcome:
    weights = interpret(content, str(path))
    return [f"read as {weights.kind}", *(f"note: {n}" for n in weights.notes)], []


def _private(content: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    """What in a file's texts names a path, an image or a case."""
    for where, text in _texts(content):
        found = _PATH.search(text) or _IMAGE.search(text)
        if found:
            yield f"{where} holds '{found.group(0).strip()[:80]}'"
        yield from (f"{where} holds the case name '{name}'" for name in names if name in text)
    yield from (f"{where} lists cases" for where in _listing(content))


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a file's content, keys included, and where it stands."""
    if isinstance(value, str):
        yield where or "the file", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else str(key)
            if not isinstance(inner, torch.Tensor):
                yield place, str(key)
            yield from _texts(inner, place)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from _texts(inner, where)


def _listing(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else str(key)
            if key in _NAMING and isinstance(inner, (list, tuple, Mapping)) and inner:
                yield place
            yield from _listing(inner, place)
