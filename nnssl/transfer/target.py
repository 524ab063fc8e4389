"""The network that pretrained weights are for, as a target's plans describe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnssl.data.spacing import crop_spacing
from nnssl.transfer.source import Pretraining


@dataclass(frozen=True)
class Target:
    """The network that pretrained weights are for.

    Attributes:
        architecture: the plans' `architecture` block.
        channels: image channels.
        images: what is known of the target's images, for the comparison with pretraining.
    """

    architecture: Mapping[str, Any]
    channels: int
    images: Pretraining = field(default_factory=Pretraining)


def target_of(
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any] | None,
) -> Target:
    """Network and images of a target.

    Args:
        plans: of the target.
        configuration: of those plans, inheritance resolved.
        dataset_json: of the target.
        fingerprint: of the target, if there is one.
    """
    names = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    images = Pretraining(
        spacing=crop_spacing(configuration),
        patch_size=tuple(int(n) for n in configuration["patch_size"]),
        normalization=tuple(configuration["normalization_schemes"]),
        channel_names=tuple(str(n) for n in names.values()),
        intensity=plans.get("foreground_intensity_properties_per_channel") or {},
        orientation=usual_orientation(fingerprint),
    )
    return Target(configuration["architecture"], len(names), images)


def usual_orientation(fingerprint: Mapping[str, Any] | None) -> str | None:
    """Orientation of most cases, where the fingerprint records it."""
    measured = (fingerprint or {}).get("nnssl", {}).get("measured", {})
    known = Counter(facts["orientation"] for facts in measured.values() if facts.get("orientation"))
    return known.most_common(1)[0][0] if known else None
