"""The 2D plan of a U-Net on a timm backbone (`--encoder`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from nnssl.planners.sizes import SizePreset

from nnssl.networks import TimmUNet
from nnssl.networks.timm_backbone import check_name, create_backbone, strides_of, widths

log = logging.getLogger(__name__)

NETWORK = "nnssl.networks.TimmUNet"
LARGEST_EDGE = 2048
"""nnU-Net's first guess of a 2D patch has the area of a square of this edge; no larger one fits any memory target."""
LEAST_STRIDES = 2
"""Least edge of a patch, in total strides of the backbone: one position of the deepest map is no map."""


def encoder_architecture(name: str, channels: int, preset: SizePreset) -> dict[str, Any]:
    """The plans' `architecture` block.

    Args:
        name: timm model; a tag of weights (`.a1_in1k`) is dropped, for plans hold no weights.
        channels: image channels.
        preset: its first and largest width are the decoder's.

    Raises:
        NnsslError: timm does not know it, or it has no feature pyramid.
    """
    base = check_name(name)
    backbone = create_backbone(base, channels)
    strides = strides_of(backbone)
    decoder = [min(preset.base_features * 2**s, preset.max_features_2d) for s in range(len(strides) - 1)]
    return {
        "network_class_name": NETWORK,
        "arch_kwargs": {
            "backbone": base,
            "n_stages": len(strides),
            "strides": strides,
            "features_per_stage": [*decoder, widths(backbone)[-1]],
            "n_conv_per_stage_decoder": [2] * (len(strides) - 1),
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["norm_op", "nonlin"],
    }


def fit_plan(
    plan: dict[str, Any],
    name: str,
    *,
    channels: int,
    classes: int,
    preset: SizePreset,
    voxels: float,
    least_batch: int,
    reference_batch: int,
) -> None:
    """Put a timm backbone, and the patch and batch that go with it, into nnU-Net's plan of a 2D configuration.

    Args:
        plan: of the configuration; spacing, median size and normalisation stay.
        name: timm model.
        channels, classes: of images and labels.
        preset: of the size.
        voxels: pixels of the whole dataset, which caps the batch as in nnU-Net.
        least_batch, reference_batch: nnU-Net's smallest batch, and the one that the size's memory target is stated for.
    """
    architecture = encoder_architecture(name, channels, preset)
    kwargs = architecture["arch_kwargs"]
    network = TimmUNet(channels, classes, kwargs["backbone"], kwargs["strides"], kwargs["features_per_stage"])
    stride = [int(n) for n in np.prod(kwargs["strides"], axis=0)]
    reference = preset.reference_2d
    patch, size = fit_patch(network, [float(n) for n in plan["median_image_size_in_voxels"]], stride, reference)
    fits, covers = round(reference / size * reference_batch), round(voxels / float(np.prod(patch)))
    plan["architecture"], plan["patch_size"] = architecture, patch
    plan["batch_size"] = max(min(fits, covers), least_batch)


def fit_patch(
    network: TimmUNet, median: Sequence[float], stride: Sequence[int], reference: float
) -> tuple[list[int], float]:
    """The largest patch with the shape of the median image that fits a memory target with nnU-Net's reference batch.

    As nnU-Net does: begin with the median image, padded to multiples of the total stride, and take a step off the axis
    that is largest relative to the median until the network's feature maps are small enough.

    Args:
        network: to measure.
        median: size of the median image in pixels.
        stride: the backbone's total stride.
        reference: values in the feature maps of one image that stand for the memory target.

    Returns:
        Patch, and the values in the feature maps of one image of that size.
    """
    least = [LEAST_STRIDES * s for s in stride]
    shrink = min(1.0, LARGEST_EDGE / float(np.sqrt(np.prod(median))))
    patch = [max(int(-(-n * shrink // s)) * s, low) for n, s, low in zip(median, stride, least)]
    while (size := network.compute_conv_feature_map_size(patch)) > reference:
        order = np.argsort([p / n for p, n in zip(patch, median)])[::-1]
        axis = next((int(a) for a in order if patch[a] > least[a]), None)
        if axis is None:
            log.warning("the smallest patch, %s, needs more memory than the size stands for", "x".join(map(str, patch)))
            break
        patch[axis] -= stride[axis]
    return patch, float(size)
