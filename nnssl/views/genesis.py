"""The distortions of Models Genesis (Zhou et al. 2021, Medical Image Analysis 67:101840), for whole batches.

Three of them, each as two functions, one that draws the few numbers and one that applies them: intensities through a random
curve, voxels shuffled inside small windows, boxes of noise (in-painting) or noise around boxes (out-painting). Nothing is
taken from padding and nothing is written to it.
"""

from __future__ import annotations

from math import prod

import torch

from nnssl.views.boxes import box_masks, random_boxes
from nnssl.views.geometry import Geometry
from nnssl.views.intensity import moments, unit_scale
from nnssl.views.noise import device_generator

CURVE_POINTS = 256
CURVE_REACH = 3.0
"""Standard deviations around the mean that a curve covers at most."""
LONGEST_WINDOW = 6
"""Voxels: a tenth of the paper's crops of 64 voxels. A tenth of a larger crop would no longer be local."""
PAINTED_BOXES = 5
P_ANOTHER_BOX = 0.95
INNER_EDGE = (1 / 6, 1 / 3)
"""Edges of in-painted boxes as shares of the crop's."""
OUTER_EDGE = (3 / 7, 4 / 7)
"""Edges of the boxes that out-painting leaves."""


def random_distortion(
    x: torch.Tensor,
    inside: torch.Tensor,
    geometry: Geometry,
    generator: torch.Generator,
    *,
    p_curve: float = 0.9,
    p_shuffle: float = 0.5,
    p_paint: float = 0.9,
    p_inner: float = 0.2,
) -> torch.Tensor:
    """Shuffle, then change intensities, then paint, as in the paper; each with its own probability per crop.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image.
        geometry: size and spacing of the crops.
        generator: CPU generator.
        p_curve, p_shuffle, p_paint: probabilities of the three distortions.
        p_inner: probability that painting is in-painting; it is out-painting otherwise.

    Returns:
        (B, C, *spatial), zero outside `inside`.
    """
    batch, channels = x.shape[:2]
    windows, offsets, share = random_windows(geometry, batch, generator, p_shuffle)
    chosen, curves = random_curves(batch, channels, generator, p_curve)
    boxes, outside = random_painting(geometry, batch, generator, p_paint, p_inner)
    noise = device_generator(generator, x.device)
    x = shuffle_windows(torch.where(inside, x, 0.0), inside, windows, offsets, share, noise)
    x = apply_curves(x, inside, chosen, curves)
    return paint(x, inside, painted(boxes, outside, x.shape[2:], x.device), noise)


def random_curves(
    batch: int, channels: int, generator: torch.Generator, p: float = 0.9
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw monotone curves from [0, 1] onto [0, 1]: cubic Bezier curves from (0, 0) to (1, 1), half of them read backwards.

    The two control points lie anywhere in the unit square. Both coordinates then never fall along the curve, so that it
    is a function; read backwards it maps 0 to 1 and 1 to 0, which inverts the contrast.

    Returns:
        (B,) bool, which crops are changed, and (B, C, CURVE_POINTS), the curves at evenly spaced places; both on the CPU.
    """
    chosen = torch.rand(batch, generator=generator) < p
    control = torch.rand(batch * channels, 2, 2, generator=generator)
    backwards = torch.rand(batch, channels, 1, generator=generator) < 0.5
    t = torch.linspace(0, 1, 4 * CURVE_POINTS)
    along = 3 * (1 - t) ** 2 * t * control[:, 0, :, None] + 3 * (1 - t) * t**2 * control[:, 1, :, None] + t**3
    place, value = along[:, 0].contiguous(), along[:, 1]
    even = torch.linspace(0, 1, CURVE_POINTS).expand(batch * channels, -1).contiguous()
    after = torch.searchsorted(place, even).clamp(1, len(t) - 1)
    x0, x1 = place.gather(1, after - 1), place.gather(1, after)
    y0, y1 = value.gather(1, after - 1), value.gather(1, after)
    curves = y0 + (y1 - y0) * ((even - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    curves = curves.view(batch, channels, CURVE_POINTS)
    return chosen, torch.where(backwards, curves.flip(-1), curves)


def apply_curves(x: torch.Tensor, inside: torch.Tensor, chosen: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Send the intensities of the chosen crops through their curves.

    The curves live on [0, 1] and images are z-scored, so values are first scaled by their own minimum and maximum in the
    image, per crop and channel, and scaled back afterwards: smallest and largest value stay, or change places. Values more
    than `CURVE_REACH` standard deviations from the mean are cut off: with a few very bright voxels in the range, a curve
    that inverts would make all others very bright.

    Args:
        x: (B, C, *spatial), zero outside `inside`.
        inside: (B, 1, *spatial) bool, True = image.
        chosen: (B,) bool, on the CPU.
        curves: (B, C, points) values at evenly spaced places, on the CPU.

    Returns:
        (B, C, *spatial), zero outside `inside`; crops that are not chosen pass bit for bit.
    """
    rows = chosen.nonzero().flatten()
    if not len(rows):
        return x
    index = rows.to(x.device, non_blocking=True)
    table = curves[rows].to(x.device, x.dtype, non_blocking=True)
    where = inside[index]
    unit, low, high = unit_scale(x[index], where, CURVE_REACH)
    place = unit.flatten(2) * (table.shape[2] - 1)
    before = place.floor().clamp(max=table.shape[2] - 2)
    left, right = table.gather(2, before.long()), table.gather(2, before.long() + 1)
    mapped = (left + (right - left) * (place - before)).view_as(unit)
    changed = torch.where(high > low, low + mapped * (high - low), x[index])
    out = x.clone()
    out[index] = torch.where(where, changed, 0.0)
    return out


def random_windows(
    geometry: Geometry, batch: int, generator: torch.Generator, p: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw, per crop, the windows inside which voxels are shuffled: a grid of equal windows at a random offset.

    Windows have 1 to n/10 voxels along an axis of n voxels, never more than `LONGEST_WINDOW`, but up to 2 where slices are
    not thick, so that there is something to shuffle. Along few thick slices they are one slice only.

    Returns:
        Window size (B, dim) and offset of the grid (B, dim), int64; share of windows that are shuffled (B,), between a half
        and all. On the CPU. A window of one voxel marks a crop that is not changed.
    """
    thick = geometry.thick_axes()
    tenth = [min(n // 10, LONGEST_WINDOW) for n in geometry.patch_size]
    largest = [min(n, max(t, 1 if a in thick else 2)) for a, (n, t) in enumerate(zip(geometry.patch_size, tenth))]
    chosen = torch.rand(batch, 1, generator=generator) < p
    draws = torch.rand(2, batch, geometry.dim, generator=generator)
    share = 0.5 + 0.5 * torch.rand(batch, generator=generator)
    windows = 1 + (draws[0] * torch.tensor(largest)).long()
    # one voxel alone cannot be shuffled: the axis that may be longest gets two
    alone = windows.prod(1) == 1
    windows[alone, max(range(geometry.dim), key=lambda axis: largest[axis])] = min(2, max(largest))
    windows = torch.where(chosen, windows, 1)
    free = torch.minimum(windows, torch.tensor(geometry.patch_size) - windows + 1)  # offsets that leave a whole window
    return windows, (draws[1] * free).long(), share


def shuffle_windows(
    x: torch.Tensor,
    inside: torch.Tensor,
    windows: torch.Tensor,
    offsets: torch.Tensor,
    share: torch.Tensor,
    noise: torch.Generator,
) -> torch.Tensor:
    """Permute the voxels inside a random share of each crop's windows, all channels alike.

    Windows that touch padding are left alone, and so is the rim that the grid does not cover.

    Args:
        x: (B, C, *spatial).
        inside: (B, 1, *spatial) bool, True = image.
        windows, offsets, share: from `random_windows`, on the CPU.
        noise: generator on the device of x.

    Returns:
        (B, C, *spatial) with the same values in every window as before.
    """
    out = x.clone()
    for b, (window, offset, part) in enumerate(zip(windows.tolist(), offsets.tolist(), share.tolist())):
        if prod(window) == 1:
            continue
        grid = [(n - o) // w for n, o, w in zip(x.shape[2:], offset, window)]
        covered = (slice(None), *(slice(o, o + g * w) for o, g, w in zip(offset, grid, window)))
        cells = _into_windows(x[b][covered], grid, window)
        whole = _into_windows(inside[b][covered], grid, window)[0].all(dim=1)
        order = torch.rand(cells.shape[1:], generator=noise, device=x.device).argsort(dim=1)
        chosen = whole & (torch.rand(cells.shape[1], generator=noise, device=x.device) < part)
        order = torch.where(chosen[:, None], order, torch.arange(cells.shape[2], device=x.device))
        out[b][covered] = _from_windows(cells.gather(2, order.expand_as(cells)), grid, window)
    return out


def random_painting(
    geometry: Geometry, batch: int, generator: torch.Generator, p: float = 0.9, p_inner: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw, per crop, one to five boxes and whether noise goes into them or everywhere else.

    Returns:
        (B, PAINTED_BOXES, dim, 2) int64, boxes as of `random_boxes`, unused ones being empty; (B,) bool, True where noise
        goes outside the boxes. On the CPU. A crop that is not painted has empty boxes only, and False.
    """
    drawn = torch.rand(batch, generator=generator) < p
    outside = drawn & (torch.rand(batch, generator=generator) >= p_inner)
    # every further box comes with a probability of its own, given all before it
    another = (torch.rand(batch, PAINTED_BOXES, generator=generator) < P_ANOTHER_BOX).long()
    another[:, 0] = 1
    used = drawn[:, None] & (another.cumprod(dim=1) == 1)
    inner = random_boxes(batch, PAINTED_BOXES, geometry.patch_size, INNER_EDGE, generator)
    outer = random_boxes(batch, PAINTED_BOXES, geometry.patch_size, OUTER_EDGE, generator)
    boxes = torch.where(outside[:, None, None, None], outer, inner)
    return boxes * used[:, :, None, None], outside


def painted(
    boxes: torch.Tensor, outside: torch.Tensor, size: torch.Size | tuple[int, ...], device: torch.device
) -> torch.Tensor:
    """Where noise goes: (B, 1, *size) bool, made from what `random_painting` drew."""
    within = torch.zeros(boxes.shape[0], 1, *size, dtype=torch.bool, device=device)
    for mask in box_masks(boxes.to(device, non_blocking=True), size):
        within = within | mask
    return within ^ outside.to(device, non_blocking=True).view(-1, *[1] * (within.ndim - 1))


def paint(x: torch.Tensor, inside: torch.Tensor, where: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Replace voxels of the image by uniform noise of the same mean and standard deviation, per crop and channel.

    Args:
        x: (B, C, *spatial), zero outside `inside`.
        inside: (B, 1, *spatial) bool, True = image.
        where: (B, 1, *spatial) bool, True = replace.
        noise: generator on the device of x.
    """
    mean, sd = moments(x, inside)
    uniform = torch.rand(x.shape, generator=noise, device=x.device, dtype=x.dtype)
    return torch.where(inside & where, mean + sd * 12**0.5 * (uniform - 0.5), x)


def _into_windows(x: torch.Tensor, grid: list[int], window: list[int]) -> torch.Tensor:
    """(C, *grid * window) -> (C, windows, voxels of a window)."""
    dim = len(grid)
    x = x.reshape(x.shape[0], *(n for pair in zip(grid, window) for n in pair))
    x = x.permute(0, *range(1, 2 * dim, 2), *range(2, 2 * dim + 1, 2))
    return x.reshape(x.shape[0], prod(grid), prod(window))


def _from_windows(x: torch.Tensor, grid: list[int], window: list[int]) -> torch.Tensor:
    """The way back."""
    dim = len(grid)
    x = x.reshape(x.shape[0], *grid, *window).permute(0, *(a for k in range(1, dim + 1) for a in (k, k + dim)))
    return x.reshape(x.shape[0], *(g * w for g, w in zip(grid, window)))
