"""Whether datasets are planned alike, so that their cases can be crops of one batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnssl.data.pool import PER_IMAGE
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """What was planned for a dataset.

    Attributes:
        name: of the dataset.
        plans: its plans.
        configuration: the one to pretrain, inheritance resolved.
        dataset_json: its description.
    """

    name: str
    plans: Mapping[str, Any]
    configuration: Mapping[str, Any]
    dataset_json: Mapping[str, Any]


def check_planned_alike(first: Planned, other: Planned) -> None:
    """Refuse a dataset whose cases were made ready in another way; names the first difference and both values."""
    for (what, ours), (_, theirs) in zip(_what_counts(first), _what_counts(other)):
        if not _same(ours, theirs):
            raise NnsslError(
                f"{first.name} and {other.name} are not planned alike: {what} is {_show(ours)} in the first and "
                f"{_show(theirs)} in the second. Plan and preprocess them for one target: nnssl_plan_and_preprocess "
                f"-d {other.name} --like {_target(first)}"
            )
    ours, theirs = (list(p.dataset_json["channel_names"].values()) for p in (first, other))
    lower = [[str(n).casefold() for n in names] for names in (ours, theirs)]
    if lower[0] != lower[1] and sorted(lower[0]) == sorted(lower[1]):
        raise NnsslError(
            f"the channels of {first.name} are {ours}, those of {other.name} {theirs}: same, in another order"
        )
    if lower[0] != lower[1]:
        log.warning("channel names differ: %s has %s, %s has %s", first.name, ours, other.name, theirs)


def _what_counts(p: Planned) -> Iterator[tuple[str, Any]]:
    """What the stored cases and the crops from them depend on, as (name, value); the same names for every dataset."""
    yield "number of channels", len(p.dataset_json["channel_names"])
    for key in ("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm"):
        yield key, p.configuration.get(key)
    yield "transpose_forward (axis order)", p.plans["transpose_forward"]
    for key in ("resampling_fn_data", "resampling_fn_data_kwargs"):
        yield key, p.configuration.get(key)
    for channel, scheme in enumerate(p.configuration["normalization_schemes"]):
        properties = p.plans["foreground_intensity_properties_per_channel"].get(str(channel), {})
        if scheme not in PER_IMAGE:
            for key in ("mean", "std", "percentile_00_5", "percentile_99_5"):
                yield f"intensity '{key}' of channel {channel} ({scheme})", properties.get(key)


def _same(a: Any, b: Any) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _show(value: Any) -> str:
    return "x".join(f"{v:g}" for v in value) if _numbers(value) else f"{value}"


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value)


def _target(first: Planned) -> str:
    like = first.plans.get("nnssl_like")
    return str(like["dataset_name"] if like else first.name)
