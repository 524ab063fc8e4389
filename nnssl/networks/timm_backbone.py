"""Backbones of timm, the PyTorch Image Models: the one file that imports it, and only when such a network is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from nnssl.errors import NnsslError, did_you_mean

OPTIONS = ("img_size", "window_size", "drop_path_rate", "drop_rate")
"""Arguments of `timm.create_model` that plans may hold. Others, such as `checkpoint_path`, would read files."""


def check_name(name: str) -> str:
    """A model's name without the tag of its weights: `resnet50.a1_in1k` -> `resnet50`.

    Raises:
        NnsslError: timm does not know it.
    """
    import timm

    base = name.split(".", 1)[0]
    if not timm.is_model(base):
        raise NnsslError(
            f"timm has no model '{name}'.{did_you_mean(base, timm.list_models())} "
            "`python -c \"import timm; print(timm.list_models('*resnet*'))\"` lists those with a word in their name"
        )
    return base


def create_backbone(name: str, channels: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A timm model without its classifier that returns its feature maps, with timm's own initialisation.

    Args:
        name: of the model; a tag of weights is ignored, nothing is downloaded.
        channels: image channels.
        options: further arguments of `timm.create_model`, see `OPTIONS`; a Swin transformer needs `img_size`.

    Raises:
        NnsslError: timm does not know the name or an option is none of `OPTIONS`, or its feature maps are no pyramid.
    """
    import timm

    base = check_name(name)
    unknown = [key for key in options or {} if key not in OPTIONS]
    if unknown:
        raise NnsslError(f"backbone_kwargs of the plans: '{unknown[0]}' is not among {', '.join(OPTIONS)}")
    try:
        backbone = timm.create_model(base, pretrained=False, features_only=True, in_chans=channels, **(options or {}))
    except (RuntimeError, AttributeError, AssertionError, TypeError, NotImplementedError) as error:
        # what timm's models raise where they were never made to give feature maps, or do not take an option
        raise NnsslError(
            f"timm cannot build '{base}' as a feature extractor ({' '.join(str(error).split())[:150]}): "
            "choose another backbone, such as resnet50 or convnext_tiny"
        ) from error
    if not reductions_form_pyramid(reductions(backbone)):
        raise NnsslError(
            f"'{base}' has no feature pyramid: its feature maps are {_listed(reductions(backbone))} times smaller than the "
            "image, and a U-Net needs each to be a whole number of times smaller than the one before. Plain vision "
            "transformers are like that; choose a convolutional or hierarchical backbone, such as resnet50, convnext_tiny "
            "or swin_tiny_patch4_window7_224"
        )
    return backbone


def reductions(backbone: nn.Module) -> list[int]:
    """How many times smaller than the image each feature map is, highest resolution first."""
    info: Any = backbone.feature_info
    return [int(r) for r in info.reduction()]


def widths(backbone: nn.Module) -> list[int]:
    """Channels of each feature map."""
    info: Any = backbone.feature_info
    return [int(c) for c in info.channels()]


def channels_last(backbone: nn.Module) -> bool:
    """Whether its feature maps are (B, Y, X, C), as of Swin transformers."""
    return str(getattr(backbone, "output_fmt", "NCHW")).rsplit(".", 1)[-1].upper() == "NHWC"


def reductions_form_pyramid(found: Sequence[int]) -> bool:
    """Whether each is a whole multiple, at least two, of the one before."""
    return bool(found) and found[0] >= 1 and all(b > a and b % a == 0 for a, b in pairwise(found))


def strides_of(backbone: nn.Module) -> list[list[int]]:
    """Strides per stage of a U-Net on this backbone, [1, 1] for full resolution first, as plans have them."""
    found = reductions(backbone)
    steps = [1, *found] if found[0] > 1 else found
    return [[1, 1], *([b // a] * 2 for a, b in pairwise(steps))]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)
