"""Small pictures of chosen cases: slices through the middle of the body, upright and with the right proportions."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnssl.data.body import body_mask
from nnssl.data.folders import RawCase
from nnssl.data.headers import orientation_of
from nnssl.data.hounsfield import is_ct
from nnssl.data.images import read_case
from nnssl.data.parallel import run_cases

SMALL, LARGE = 112, 150
"""Longest edge of a picture in pixels: of the grid, and of the three planes."""

MASK_EDGE = 128
"""Voxels: the body is looked for on every n-th voxel, so that no axis is longer than this."""

PLANES = {"RL": "sagittal", "AP": "coronal", "IS": "axial"}
"""Name of the plane across an axis that runs between these two directions."""


@dataclass(frozen=True)
class Picture:
    """A slice: what it shows, and a JPEG."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Thumbnail:
    """Pictures of a case, with its shape (Z, Y, X) in voxels and spacing in mm as they were read."""

    pictures: tuple[Picture, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Order:
    """A case to draw; `large` asks for all three planes and all channels."""

    case: RawCase
    large: bool


def draw_cases(
    orders: Sequence[Order], reader: str, channels: Sequence[str], processes: int
) -> tuple[dict[str, Thumbnail], dict[str, str]]:
    """Pictures by case, and the reason for each case without any. Each worker holds one image at a time.

    Args:
        orders: cases to draw.
        reader: name of nnU-Net's reader class.
        channels: names of the channels.
        processes: worker processes.
    """
    if not orders:
        return {}, {}
    work = partial(draw_case, reader=reader, channels=tuple(channels))
    drawn, failed = run_cases(work, orders, processes, "thumbnails")
    return (
        {orders[i].case.name: thumbnail for i, thumbnail in sorted(drawn.items())},
        {orders[i].case.name: reason for i, reason in sorted(failed.items())},
    )


def draw_case(order: Order, *, reader: str, channels: Sequence[str]) -> Thumbnail:
    """Draw one case; raises Failure (or a reader's own error) when it cannot be read."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    data, properties = read_case(order.case.images, recursive_find_reader_writer_by_name(reader)(), len(channels), True)
    spacing = tuple(float(s) for s in properties["spacing"])
    letters = _letters(properties)
    steps = [-(-n // MASK_EDGE) for n in data.shape[1:]]
    every_nth = (slice(None), *(slice(None, None, n) for n in steps))
    coarse = data[every_nth]
    body = body_mask(coarse, channels, [s * n for s, n in zip(spacing, steps)])
    middle = [min(int(np.median(p)) * s, n - 1) for p, s, n in zip(np.nonzero(body), steps, data.shape[1:])]
    windows = [_window(channel, body, is_ct(name)) for channel, name in zip(coarse, channels)]
    planes = [0] if not order.large or data.shape[1] == 1 else [0, 1, 2]
    edge = LARGE if order.large else SMALL
    extents = np.asarray(data.shape[1:]) * spacing
    pixels_per_mm = edge / max(e for p in planes for i, e in enumerate(extents) if i != p)
    pictures = []
    for c in range(len(data) if order.large else 1):
        for plane in planes if c == 0 else planes[:1]:
            image = data[c].take(middle[plane], axis=plane)
            shown = "image" if data.shape[1] == 1 and not letters else _plane_name(plane, letters)
            caption = f"{channels[c]}, {shown}" if len(data) > 1 else shown
            pictures.append(
                Picture(caption, _jpeg(image, windows[c], _without(spacing, plane), pixels_per_mm, letters, plane))
            )
    return Thumbnail(tuple(pictures), tuple(int(n) for n in data.shape[1:]), spacing)


def _letters(properties: Mapping[str, Any]) -> str | None:
    """Where the Z, Y and X axes of the array point to, if the reader kept the patient's axes."""
    letters = orientation_of(properties.get("sitk_stuff", {}).get("direction", ()))
    return letters[::-1] if letters else None


def _window(image: np.ndarray, body: np.ndarray, ct: bool) -> tuple[float, float]:
    """Grey scale (low, high) from the percentiles inside the body.

    Outside CT the body is what lies above air, so that its own low end would hide dark tissue: there the image's counts.
    """
    low = float(np.percentile(image[body] if ct else image, 0.5))
    high = float(np.percentile(image[body], 99.5))
    if not high > low:  # a body of one value
        low, high = float(image.min()), float(image.max())
    return low, high if high > low else low + 1.0


def _plane_name(plane: int, letters: str | None) -> str:
    if letters is None:
        return f"across axis {'ZYX'[plane]}"
    return next(name for pair, name in PLANES.items() if letters[plane] in pair)


def _without(values: Sequence[float], axis: int) -> tuple[float, ...]:
    return tuple(v for i, v in enumerate(values) if i != axis)


def _jpeg(
    image: np.ndarray,
    window: tuple[float, float],
    spacing: Sequence[float],
    pixels_per_mm: float,
    letters: str | None,
    plane: int,
) -> bytes:
    """A slice (rows, columns) as a JPEG, scaled by its spacing (mm)."""
    from matplotlib.image import imsave
    from skimage.transform import resize

    low, high = window
    grey = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    size = [max(8, round(n * s * pixels_per_mm)) for n, s in zip(image.shape, spacing)]
    grey = resize(grey, size, order=1, anti_aliasing=True)
    if letters:
        grey = upright(grey, letters[:plane] + letters[plane + 1 :])
    file = io.BytesIO()
    imsave(file, grey, cmap="gray", vmin=0, vmax=1, format="jpg", pil_kwargs={"quality": 85})
    return file.getvalue()


def upright(image: np.ndarray, letters: str) -> np.ndarray:
    """Turn a slice as radiologists look at it: head or front on top, front or the patient's right on the left.

    Args:
        image: (rows, columns).
        letters: where rows and columns point to, of `R`, `L`, `A`, `P`, `I`, `S`.
    """
    rows, columns = letters[0], letters[1]
    if columns in "IS" or (rows in "RL" and columns in "AP"):
        image, rows, columns = image.T, columns, rows
    if rows in "SA":  # rows count downwards
        image = image[::-1]
    if columns in "RA":
        image = image[:, ::-1]
    return image
