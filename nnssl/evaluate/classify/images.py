"""Whole cases as images of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_VOXELS = 96**3
MOST_SLICES = 6
MARGIN = 0.1
"""Share of the slices at either end that is not looked at."""


def common_size(shapes: Sequence[Sequence[int]], stride: Sequence[int], most: int = MOST_VOXELS) -> tuple[int, ...]:
    """The median size of images, a multiple of the stride and of two of them at least, shrunk until it is small enough.

    Args:
        shapes: spatial sizes.
        stride: total stride of the encoder.
        most: voxels at the most.
    """
    median = np.median(np.asarray(shapes), axis=0)
    size = [max(2, -(-round(n) // s)) for n, s in zip(median, stride)]
    while np.prod([n * s for n, s in zip(size, stride)]) > most and max(size) > 2:
        largest = max(range(len(size)), key=lambda i: size[i] * stride[i] if size[i] > 2 else 0)
        size[largest] -= 1
    return tuple(n * s for n, s in zip(size, stride))


def fit(image: np.ndarray, size: Sequence[int], centre: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """An image (C, *spatial) cut or padded with zeros to a size.

    Args:
        image: to fit.
        size: voxels per axis.
        centre: voxel that is to be in the middle of what is cut out, as far as the image reaches; default: its own middle.
    """
    fitted = np.zeros((image.shape[0], *size), np.float32)
    source, target = [slice(None)], [slice(None)]
    for axis, (n, wanted) in enumerate(zip(image.shape[1:], size)):
        kept = min(n, wanted)
        begin = (n - kept) // 2 if centre is None else round(centre[axis] - kept / 2)
        begin = min(max(begin, 0), n - kept)
        source.append(slice(begin, begin + kept))
        target.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
    fitted[tuple(target)] = image[tuple(source)]
    return fitted


def slices_of(image: np.ndarray, count: int) -> np.ndarray:
    """(C, Z, Y, X) -> (count, C, Y, X): slices at equal distances, without a tenth at either end."""
    z = image.shape[1]
    picked = np.linspace(MARGIN * (z - 1), (1 - MARGIN) * (z - 1), count).round().astype(int)
    return np.moveaxis(image[:, picked], 1, 0)


def body_centre(body: np.ndarray | None) -> np.ndarray | None:
    """Middle of the body, (3,), from positions in it (K, 3); half of them lie on either side. None where there are none."""
    return None if body is None or len(body) == 0 else np.median(body, axis=0)
