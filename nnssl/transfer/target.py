"""The network that pretrained weights are for, as a target's plans describe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnssl.data.spacing import crop_spacing
from nnssl.errors import NnsslError
from nnssl.transfer.source import Pretraining


@dataclass(frozen=True)
class Target:
    """The network that pretrained weights are for.

    Attributes:
        architecture: the plans' `architecture` block.
        channels: input channels of the network.
        images: what is known of the target's images, for the comparison with pretraining.
        segmentations: how many of the channels, the last ones, hold the first stage's classes; 0 but in a cascade.
    """

    architecture: Mapping[str, Any]
    channels: int
    images: Pretraining = field(default_factory=Pretraining)
    segmentations: int = 0

    @property
    def image_channels(self) -> int:
        return self.channels - self.segmentations


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

    Raises:
        NnsslError: a cascade's labels are not what nnU-Net understands.
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
    segmentations = _segmentation_channels(plans, configuration, dataset_json, len(names))
    return Target(configuration["architecture"], len(names) + segmentations, images, segmentations)


def _segmentation_channels(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset_json: Mapping[str, Any], images: int
) -> int:
    """What nnU-Net adds to the image channels of a cascade's second stage: the classes of the first."""
    if not configuration.get("previous_stage"):
        return 0
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    manager, settings = PlansManager(dict(plans)), ConfigurationManager(dict(configuration))
    content = dict(dataset_json)
    try:
        return int(determine_num_input_channels(manager, settings, content)) - images
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # what nnU-Net makes of unusual labels
        raise NnsslError(f"dataset.json: nnU-Net refuses the labels {content['labels']}: {error}") from error


def usual_orientation(fingerprint: Mapping[str, Any] | None) -> str | None:
    """Orientation of most cases, where the fingerprint records it."""
    measured = (fingerprint or {}).get("nnssl", {}).get("measured", {})
    known = Counter(facts["orientation"] for facts in measured.values() if facts.get("orientation"))
    return known.most_common(1)[0][0] if known else None
