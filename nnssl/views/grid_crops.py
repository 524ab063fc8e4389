"""A grid of cells that tile a crop, and crops of a cell's size anywhere in it. Exact: whole voxels, nothing is resampled."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from nnssl.errors import NnsslError
from nnssl.views.geometry import Geometry


def divide(geometry: Geometry, stride: Sequence[int], grid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How to cut a patch into equal cells that an encoder can read.

    Axes of thick slices stay whole, and so do axes that are too short for `grid` cells of two positions of the deepest
    stage. A cell is a multiple of the stride; what is left of the patch is not used.

    Args:
        geometry: patch size and spacing.
        stride: total stride of the encoder, per axis.
        grid: cells per axis that is divided.

    Returns:
        Cells per axis, and voxels of a cell per axis.

    Raises:
        NnsslError: no axis can be divided.
    """
    cells, size = [], []
    for axis, (n, s) in enumerate(zip(geometry.patch_size, stride)):
        whole = axis in geometry.thick_axes() or n < 2 * s * grid
        cells.append(1 if whole else grid)
        size.append((n if whole else n // grid) // s * s)
    if prod(cells) < 2:
        raise NnsslError(
            f"the patch {list(geometry.patch_size)} is too small for {grid} cells along any axis: a cell needs at least two "
            f"positions of the deepest stage, so {grid} x 2 x {list(stride)} voxels. Use a smaller grid, or plan with a "
            "larger patch"
        )
    return tuple(cells), tuple(size)


def grid_cells(x: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """(B, C, *spatial) -> (B, N, C, *cell), cells in row-major order; `cells` per axis must divide the size."""
    dim = len(cells)
    size = [n // k for n, k in zip(x.shape[2:], cells)]
    split = x.reshape(*x.shape[:2], *(n for pair in zip(cells, size) for n in pair))
    order = (0, *range(2, 2 + 2 * dim, 2), 1, *range(3, 3 + 2 * dim, 2))
    return split.permute(order).reshape(x.shape[0], prod(cells), x.shape[1], *size)


def cut(x: torch.Tensor, low: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A box of each sample, with a place of its own.

    Args:
        x: (B, C, *spatial).
        low: (B, dim) int64, first voxel of each box, on the device of x.
        size: voxels per axis.

    Returns:
        (B, C, *size).
    """
    for axis, length in enumerate(size, start=2):
        index = low[:, axis - 2, None] + torch.arange(length, device=x.device)
        index = index.view(len(x), *(length if a == axis else 1 for a in range(1, x.ndim)))
        x = x.gather(axis, index.expand(*x.shape[:axis], length, *x.shape[axis + 1 :]))
    return x


def bounding_box(mask: torch.Tensor) -> torch.Tensor:
    """(B, 1, *spatial) bool -> (B, dim, 2) int64, first and one-past-last True voxel; of an empty mask, everything."""
    boxes = []
    for axis in range(2, mask.ndim):
        line = mask.any(dim=tuple(a for a in range(1, mask.ndim) if a != axis)).long()
        boxes.append(torch.stack([line.argmax(1), line.shape[1] - line.flip(1).argmax(1)], dim=1))
    return torch.stack(boxes, dim=1)


def random_places(
    box: torch.Tensor, size: Sequence[int], spatial: Sequence[int], count: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw places for crops, every whole voxel alike, within the image as far as they fit.

    Args:
        box: (B, dim, 2) image part of each crop.
        size: voxels per axis of what is to be placed.
        spatial: voxels per axis of the crop.
        count: places per crop.
        generator: CPU generator.

    Returns:
        (B, count, dim) int64 first voxels, on the device of the box.
    """
    draw = torch.rand(len(box), count, len(size), generator=generator).to(box.device, non_blocking=True)
    length = torch.tensor(size).to(box.device, non_blocking=True)
    last = torch.tensor(spatial).to(box.device, non_blocking=True) - length
    low, high = box[:, None, :, 0], box[:, None, :, 1]
    free = high - low - length
    place = low + torch.minimum((draw * (free + 1)).floor().long(), free)
    centred = ((low + high - length) // 2).clamp(min=0).minimum(last)
    return torch.where(free >= 0, place, centred)


def grid_overlap(place: torch.Tensor, size: Sequence[int], cells: Sequence[int]) -> torch.Tensor:
    """Share of a crop's volume that lies in each cell of a grid whose cells have the crop's size.

    Args:
        place: (B, Q, dim) first voxels of the crops; inside the grid.
        size: voxels per axis of a cell, and of a crop.
        cells: per axis.

    Returns:
        (B, Q, N) float32, cells in row-major order. Sums to 1, because the grid covers the crop.
    """
    share = place.new_ones(*place.shape[:2], 1, dtype=torch.float32)
    for axis, (length, count) in enumerate(zip(size, cells)):
        begin = torch.arange(count, device=place.device) * length
        common = (length - (place[..., axis, None] - begin).abs()).clamp(min=0) / length
        share = (share[..., :, None] * common[..., None, :]).flatten(2)
    return share
