"""Views: flips, affine, masks; batched, on the device, pure functions of a generator.

Random *parameters* (a handful of numbers per sample) are drawn on the CPU from the generator that is passed in, so a
run sees the same views on a CPU and on a GPU and no step waits for the device; the work on voxels happens where the
images are. Mask polarity everywhere: True = visible.
"""

from __future__ import annotations

from nnssl.views.boxes import random_boxes
from nnssl.views.fusion import fuse, fusion_partner, random_coefficients
from nnssl.views.genesis import random_distortion
from nnssl.views.geometry import Geometry
from nnssl.views.intensity import moments, random_intensity
from nnssl.views.masks import expand_blocks, inside_box, random_block_mask, random_box_mask, visible_count
from nnssl.views.noise import device_generator
from nnssl.views.resized_crop import random_resized_crop, small_size
from nnssl.views.spatial import flip, random_affine, random_flips, random_spatial

__all__ = [
    "Geometry",
    "device_generator",
    "expand_blocks",
    "flip",
    "fuse",
    "fusion_partner",
    "inside_box",
    "moments",
    "random_affine",
    "random_block_mask",
    "random_box_mask",
    "random_boxes",
    "random_coefficients",
    "random_distortion",
    "random_flips",
    "random_intensity",
    "random_resized_crop",
    "random_spatial",
    "small_size",
    "visible_count",
]
