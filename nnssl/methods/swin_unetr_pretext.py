"""Swin UNETR's three proxy tasks on the plans' own encoder: inpainting, rotation and contrast (Tang et al., CVPR 2022)."""

from __future__ import annotations

from nnssl.methods.composite import composite
from nnssl.methods.masked_region import MaskedRegion
from nnssl.methods.rotation import Rotation
from nnssl.methods.simclr import SimCLR

SwinUNETRPretext = composite(
    [MaskedRegion, Rotation, SimCLR],
    name="swin_unetr_pretext",
    options={"masked_region": {"mask": "box", "box_share": 0.3}},
)
SwinUNETRPretext.__name__ = "SwinUNETRPretext"
SwinUNETRPretext.citation = (
    "Tang et al. 2022, Self-supervised pre-training of Swin transformers for 3D medical image analysis, CVPR"
)
