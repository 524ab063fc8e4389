"""Views: flips, affine, masks; batched, on the device, pure functions of a generator.

Random *parameters* (a handful of numbers per sample) are drawn on the CPU from the generator that is passed in, so a
run sees the same views on a CPU and on a GPU and no step waits for the device; the work on voxels happens where the
images are. Mask polarity everywhere: True = visible.
"""

from __future__ import annotations

from nnssl.views.geometry import Geometry
from nnssl.views.masks import expand_blocks, inside_box, random_block_mask, random_box_mask
from nnssl.views.spatial import flip, random_affine, random_flips, random_spatial

__all__ = [
    "Geometry",
    "expand_blocks",
    "flip",
    "inside_box",
    "random_affine",
    "random_block_mask",
    "random_box_mask",
    "random_flips",
    "random_spatial",
]
