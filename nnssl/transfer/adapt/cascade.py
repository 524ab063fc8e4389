"""The second stage of nnU-Net's cascade: a network that sees the first stage's segmentation beside the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nnssl.transfer.adapt.keys import first_name, is_second_name
from nnssl.transfer.adapt.network import input_projection
from nnssl.transfer.report import LoadReport, part_of


def for_images_alone(fresh: Mapping[str, torch.Tensor], segmentations: int) -> dict[str, torch.Tensor]:
    """A network's state as if it saw the image channels only.

    Args:
        fresh: state of the network.
        segmentations: how many of its input channels, the last ones, are no images.
    """
    state = dict(fresh)
    for key in _input_names(state) if segmentations else ():
        state[key] = state[key][:, : state[key].shape[1] - segmentations]
    return state


def with_blind_channels(
    state: Mapping[str, torch.Tensor], segmentations: int, report: LoadReport
) -> dict[str, torch.Tensor]:
    """The state with input channels for the first stage's segmentation behind the image's; their weights are zero.

    So the network begins as what was pretrained, whatever the first stage found, and learns from the first step on what
    to make of it: the gradient of these weights is not zero. Fresh weights would disturb every pretrained layer behind.

    Args:
        state: of a network that sees the image channels only.
        segmentations: channels to add.
        report: of the load; what is added is entered.
    """
    state = dict(state)
    if not segmentations:
        return state
    first = input_projection(state)
    weight = state[first]
    blind = weight.new_zeros(weight.shape[0], segmentations, *weight.shape[2:])
    whole = torch.cat([weight, blind], dim=1)
    state |= dict.fromkeys(_input_names(state), whole)
    part = part_of(first)
    report.adapted[part] += blind.numel()
    report.how[part].add(f"{segmentations} channel(s) for the first stage's segmentation, weights 0")
    report.remarks.append(
        f"the last {segmentations} input channel(s) are the first stage's segmentation: their weights begin at 0, so that "
        "the network begins as the pretrained one and learns to use them"
    )
    return state


def _input_names(state: Mapping[str, torch.Tensor]) -> list[str]:
    """All names of the first convolution's weight."""
    first = input_projection(state)
    return [key for key in state if key == first or (is_second_name(key) and first_name(key) == first)]
