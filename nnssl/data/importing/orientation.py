"""How an image's axes lie in the body."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from nnssl.data.headers import orientation_of
from nnssl.errors import NnsslError

KEEP = "keep"
CODES = frozenset(
    "".join(letters) for axes in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*axes)
)
"""The 48 three-letter codes, axes in x, y, z order, as SimpleITK's DICOMOrientImageFilter names them."""


def parse_orientation(text: str) -> str:
    """`keep`, or a code like LPS or RAS in any case.

    Raises:
        NnsslError: no such orientation.
    """
    if text.casefold() == KEEP:
        return KEEP
    if text.upper() not in CODES:
        raise NnsslError(
            f"--orientation {text}: give 'keep' or three letters, one each of L/R, P/A and I/S, for example LPS or RAS"
        )
    return text.upper()


def orientation(image: sitk.Image) -> str:
    """Three letters of the nearest axes, for example LPS."""
    return str(orientation_of(image.GetDirection()))


def orient(image: sitk.Image, wanted: str) -> sitk.Image:
    """The image with its axes flipped and swapped to `wanted`; voxel values stay."""
    return image if wanted == KEEP or orientation(image) == wanted else sitk.DICOMOrient(image, wanted)


def shear_angle(affine: np.ndarray) -> float:
    """Largest deviation of a 3 x 3 (or 4 x 4) affine's axes from right angles, degrees."""
    columns = np.asarray(affine, dtype=float)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not (lengths > 0).all():
        return 0.0
    cosines = (columns / lengths).T @ (columns / lengths)
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines - np.eye(3)).max(), 0.0, 1.0))))


def nearest_rotation(affine: np.ndarray) -> tuple[np.ndarray, Sequence[float]]:
    """Orthonormal axes nearest to an affine's (3 x 3), and the lengths of its columns."""
    columns = np.asarray(affine, dtype=float)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    u, _, vt = np.linalg.svd(columns / lengths)
    return u @ vt, [float(n) for n in lengths]
