"""The body in a CT, found by air, size and thickness on a coarse grid.

Steps, on a grid of about 4 mm: (1) what is denser than air; (2) a morphological opening takes off what is thin, such as
the shell of a table; (3) the largest of the pieces that are left are body parts, and get back what the opening rounded
off; (4) air that they enclose, and lung that the image's edge cuts open, counts as inside. On the full grid the skin is
then drawn where the voxels say, within one coarse voxel of the coarse outline.

Nothing is learned and no patient position is assumed, but for one thing: the first axis is taken for the body's long
axis when air touches the first or the last slice (lungs and bowel go on there).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnssl.data.hounsfield import PADDING_HU

AIR_HU = -500.0
"""Hounsfield units: below is air or lung; the body's outline lies above."""

TRUE_AIR_HU = -960.0
"""Hounsfield units: the air of the room and of the bowel lies below, aerated lung above (about -900 to -700)."""

COARSE_MM = 4.0
MIN_COARSE_EDGE = 32
SHEET_MM = 6.0
"""Radius of the opening: what is thinner than about twice this is a table's shell, a tube or a blanket."""
PART_SHARE = 0.02
PART_RADIUS_MM = 12.0
"""A piece is a body part when it has this share of the largest piece's volume and a ball of this radius fits into it."""
CONSTANT_SHARE = 0.05
"""So many voxels do not have one and the same value by chance: padding, or an export that cut values off."""
DEEP_MM = 8.0
"""Radius of the ball that fits into lung, and not into the gap between skin and table."""
LUNG_CROP_SOLID_SHARE = 0.5
LUNG_CROP_AIR_SHARE = 0.1
"""A crop from inside the lung: less than the first share is tissue; less than the second share of the rest is true air."""


def ct_body(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Body mask of a CT.

    Args:
        image: (Z, Y, X) in Hounsfield units; padding of any value below -500 counts as air.
        spacing: (Z, Y, X) in mm.

    Returns:
        (Z, Y, X) bool; may be empty only where nothing is above -500 HU and nothing looks like lung.
    """
    steps = _steps(image.shape, spacing)
    thin = tuple(slice(s // 2, None, s) for s in steps)
    image = _without_frame(image, image[thin])
    coarse = np.maximum(image[thin].astype(np.float32), -1024.0)  # padding becomes air
    coarse_spacing = [s * float(mm) for s, mm in zip(steps, spacing)]
    smooth = ndimage.uniform_filter(coarse, [min(3, n) for n in coarse.shape], mode="nearest")
    air = _air_threshold(coarse)
    solid = coarse > air
    if air == AIR_HU and _is_lung_crop(solid, smooth):
        return image > PADDING_HU
    parts = body_parts(solid, coarse_spacing)
    inside = parts | enclosed(parts) | _cut_lung(parts, smooth, coarse_spacing)
    return _refine(image, air, inside | enclosed(inside), steps)


def _without_frame(image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Air in place of a constant that fills all four corners of every slice: some tools pad with 0, which is water."""
    corners = coarse[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    value = corners.flat[0]
    if value <= max(AIR_HU, float(coarse.min())) or (corners != value).any():
        return image
    if float((coarse == value).mean()) < CONSTANT_SHARE:
        return image
    return np.where(image == value, np.float32(-1024), image)


def _air_threshold(coarse: np.ndarray) -> float:
    """`AIR_HU`, or the lowest value where an export has cut off all below and much of the image is there."""
    floor = float(coarse.min())
    cut_off = floor > AIR_HU and float((coarse == floor).mean()) >= CONSTANT_SHARE
    return floor if cut_off else AIR_HU


def _is_lung_crop(solid: np.ndarray, smooth: np.ndarray) -> bool:
    """Whether a CT shows lung from face to face, and no air around a body."""
    light = smooth[~solid]
    return float(solid.mean()) < LUNG_CROP_SOLID_SHARE and float((light < TRUE_AIR_HU).mean()) < LUNG_CROP_AIR_SHARE


def _steps(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels per coarse voxel and axis; short axes are not thinned further than to `MIN_COARSE_EDGE` voxels."""
    return tuple(max(1, min(round(COARSE_MM / float(mm)), n // MIN_COARSE_EDGE)) for n, mm in zip(shape, spacing))


def ball(radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Structuring element: voxels whose centres lie within `radius` mm of the middle one."""
    reach = [int(radius / mm) for mm in spacing]
    grid = np.meshgrid(*(np.arange(-n, n + 1) * mm for n, mm in zip(reach, spacing)), indexing="ij")
    return np.asarray(sum(g**2 for g in grid) <= radius**2)


def body_parts(solid: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The large, thick pieces of a mask (Z, Y, X): trunk, legs, arms, head; not the table.

    Faces of the image cut pieces off, they do not end them: a piece is not thin for lying at a face.
    """
    smallest = min(n * mm for n, mm in zip(solid.shape[-2:], spacing[-2:]))
    element = ball(min(SHEET_MM, 0.1 * smallest), spacing)
    core = ndimage.binary_dilation(ndimage.binary_erosion(solid, element, border_value=1), element)
    pieces, count = ndimage.label(core)
    if count == 0:
        return solid
    volume = np.bincount(pieces.ravel())
    volume[0] = 0
    largest = int(volume.argmax())
    kept = volume >= PART_SHARE * volume[largest]
    if kept.sum() > 1:
        depth = ndimage.distance_transform_edt(core, spacing)
        radius = np.array([depth[pieces == i].max() if big else 0.0 for i, big in enumerate(kept)])
        kept &= radius >= min(PART_RADIUS_MM, 0.5 * radius[largest])
    return np.asarray(kept[pieces])


def enclosed(parts: np.ndarray) -> np.ndarray:
    """Components of the background of a mask (Z, Y, X) that touch none of the faces along Y and X.

    The faces along Z do not count: lungs and bowel go on beyond the first and the last slice.
    """
    pieces, count = ndimage.label(~parts)
    faces = (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1])
    is_hole = np.ones(count + 1, dtype=bool)
    is_hole[0] = False
    is_hole[np.concatenate([face.ravel() for face in faces])] = False
    return np.asarray(is_hole[pieces])


def _cut_lung(parts: np.ndarray, smooth: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Lung that is not enclosed: cut by the image's edge, or joined with the room's air by windpipe or a thin wall.

    Regions of a slice that lie between body on two opposite sides, are deep, and have lung's density. The air between
    the legs is too thin in density, the foam of a table has the body on one side only.
    """
    between = np.zeros_like(parts)
    for axis in (1, 2):
        before = np.maximum.accumulate(parts, axis)
        after = np.flip(np.maximum.accumulate(np.flip(parts, axis), axis), axis)
        between |= before & after
    gap = between & ~parts
    element = ball(DEEP_MM, spacing)
    deep = ndimage.binary_erosion(gap, element, border_value=1)
    in_slice = np.zeros((3, 3, 3), dtype=bool)
    in_slice[1] = True
    regions, count = ndimage.label(deep, in_slice)
    if count == 0:
        return deep
    found = regions > 0
    density = ndimage.median(smooth[found], regions[found], np.arange(1, count + 1))
    lung = np.concatenate([[False], density > TRUE_AIR_HU])[regions]
    return ndimage.binary_dilation(lung, element) & gap


def _refine(image: np.ndarray, air: float, inside: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The coarse mask on the image's grid, with its outline where the voxels say.

    Args:
        image: (Z, Y, X) HU.
        air: HU above which a voxel near the outline is body.
        inside: coarse mask; voxel i stands for the image's voxels [i * step, (i + 1) * step).
        steps: image voxels per coarse voxel and axis.
    """
    near = ndimage.binary_dilation(inside)
    deep = ndimage.binary_erosion(inside, border_value=1)
    z, y, x = (np.minimum(np.arange(n) // s, m - 1) for n, s, m in zip(image.shape, steps, inside.shape))
    mask = np.empty(image.shape, dtype=bool)
    for i, coarse in enumerate(z):  # slice by slice: a chest CT has 80 million voxels, too many for temporary copies
        if i == 0 or coarse != z[i - 1]:
            near_here, deep_here = near[coarse][y][:, x], deep[coarse][y][:, x]
        mask[i] = (image[i] > air) & near_here | deep_here
    return mask
