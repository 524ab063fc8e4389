"""Reading one raw case: nnU-Net's readers, plus the checks that keep rubbish out of a pool."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.nifti import check_nifti
from nnssl.data.parallel import Failure

MIN_EDGE = 8
"""Voxels: a case must have at least this many along its two longest axes to be worth a crop."""

AIR_HU = -500.0
"""Hounsfield units: below is air or lung; the body's outline lies above."""


def read_case(
    files: Sequence[str], reader: Any, channels: int, check_files: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the channels of a case and check that they can be trained on.

    Args:
        files: one file per channel.
        reader: instance of an nnU-Net reader class.
        channels: number of channels the dataset declares.
        check_files: also look into the files themselves for what readers hide; see `nnssl.data.nifti`. Once per case.

    Returns:
        Image (C, Z, Y, X) float32 and nnU-Net's properties (`spacing` in mm, ...).

    Raises:
        Failure: the case is unreadable, not finite, constant, too small, or lacks a valid spacing or a channel.
    """
    if check_files:
        for file in files:
            _check_file(Path(file))
    with contextlib.redirect_stdout(io.StringIO()):  # the readers print; the report says it better
        try:
            data, properties = reader.read_images(list(files))
        except Exception as error:  # readers raise whatever their libraries raise
            raise Failure(f"cannot be read: {_reader_message(error, files)}") from error
    if data.shape[0] != channels:
        raise Failure(f"has {data.shape[0]} channel(s), the dataset declares {channels}")
    spacing = np.asarray(properties["spacing"], dtype=float)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise Failure(f"voxel spacing {spacing.tolist()} mm is not positive")
    if sorted(data.shape[1:])[-2] < MIN_EDGE:
        raise Failure(f"only {'x'.join(map(str, data.shape[1:]))} voxels, at least {MIN_EDGE}x{MIN_EDGE} are needed")
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise Failure(f"{bad} voxel(s) are NaN or infinite")
    if all(float(channel.min()) == float(channel.max()) for channel in data):
        raise Failure(f"every voxel has the same value ({float(data.flat[0]):g})")
    return data, properties


def _check_file(path: Path) -> None:
    """Say plainly what a file is that is no image; check a NIfTI file's own words."""
    if not path.is_file():
        raise Failure(f"{path.name} does not exist (a dangling link?)")
    with path.open("rb") as f:
        start = f.read(40)
    if not start:
        raise Failure("the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise Failure("a Git LFS pointer, not the image itself: fetch it with 'git lfs pull'")
    if path.name.endswith((".nii", ".nii.gz")):
        check_nifti(path)


def _reader_message(error: Exception, files: Sequence[str]) -> str:
    """The useful end of a reader's message, without paths."""
    text = str(error).rpartition("sitk::ERROR:")[2] or type(error).__name__
    for file in files:
        text = text.replace(file, Path(file).name)
    return " ".join(text.split())


def voxel_digest(data: np.ndarray) -> str:
    """Digest of a case's voxels (C, Z, Y, X) float32 and shape: the same image is recognised under any file name."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(tuple(data.shape)).encode())
    digest.update(np.ascontiguousarray(data, dtype="<f4").tobytes())
    return digest.hexdigest()


def body_mask(data: np.ndarray, channel_names: Sequence[str]) -> np.ndarray:
    """Where the body is: not air, not padding. Labels are never looked at.

    CT (a channel named `CT`): above -500 HU. Anything else: if the darker of Otsu's two classes is nearly uniform it is
    air, and the body is what lies clearly above it; if not (a crop from inside the body), all that is not the minimum.

    Args:
        data: (C, Z, Y, X) raw intensities.
        channel_names: as in dataset.json.

    Returns:
        (Z, Y, X) bool, never empty.
    """
    mask = np.zeros(data.shape[1:], dtype=bool)
    for channel, name in zip(data, channel_names):
        mask |= channel > (AIR_HU if name.casefold() == "ct" else _air_level(channel))
    return mask if mask.any() else np.ones_like(mask)


def _air_level(image: np.ndarray) -> float:
    """Intensity below which a voxel is air; the minimum where there is no air."""
    from skimage.filters import threshold_otsu

    sample = image[tuple(slice(None, None, max(1, n // 128)) for n in image.shape)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    if not high > low:
        return float(image.min())
    clipped = np.clip(sample, low, high)
    threshold = float(threshold_otsu(clipped))
    dark, bright = clipped[clipped <= threshold], clipped[clipped > threshold]
    if dark.size == 0 or bright.size == 0:
        return low
    spread = (float(dark.mean()) - low) / max(float(bright.mean()) - low, 1e-12)
    if spread > 0.25:
        return float(image.min())
    return 0.5 * (float(dark.mean()) + threshold)
