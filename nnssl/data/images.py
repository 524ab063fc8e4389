"""Reading one raw case: nnU-Net's readers, plus the checks that keep rubbish out of a pool."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.metaimage import check_metaimage
from nnssl.data.nifti import check_nifti
from nnssl.data.nrrd import check_nrrd
from nnssl.data.parallel import Failure

MIN_EDGE = 8
"""Voxels: a case must have at least this many along its two longest axes to be worth a crop."""
MAX_SPACING = 1e4
"""mm. nnU-Net's readers of 2D images say 999 for the axis that is not there."""


def read_case(
    files: Sequence[str], reader: Any, channels: int, check_files: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the channels of a case and check that they can be trained on.

    Args:
        files: one file per channel.
        reader: instance of an nnU-Net reader class.
        channels: number of channels the dataset declares.
        check_files: also look into the files themselves for what readers hide; see `check_file`. Once per case.

    Returns:
        Image (C, Z, Y, X) float32 and nnU-Net's properties (`spacing` in mm, ...).

    Raises:
        Failure: the case is unreadable, not finite, constant, too small, or lacks a valid spacing or a channel.
    """
    if check_files:
        for file in files:
            check_file(Path(file))
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
    if (spacing > MAX_SPACING).any():
        raise Failure(f"voxel spacing {spacing.tolist()} mm is no scan's")
    if sorted(data.shape[1:])[-2] < MIN_EDGE:
        raise Failure(f"only {'x'.join(map(str, data.shape[1:]))} voxels, at least {MIN_EDGE}x{MIN_EDGE} are needed")
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise Failure(f"{bad} voxel(s) are NaN or infinite")
    if all(float(channel.min()) == float(channel.max()) for channel in data):
        raise Failure(f"every voxel has the same value ({float(data.flat[0]):g})")
    return data, properties


def check_file(path: Path) -> None:
    """Say plainly what a file is that is no image; check what NIfTI, NRRD and MetaImage files say about themselves."""
    if not path.is_file():
        raise Failure(f"{path.name} does not exist (a dangling link?)")
    with path.open("rb") as f:
        start = f.read(40)
    if not start:
        raise Failure("the file is empty")
    if start.startswith(b"version https://git-lfs"):
        raise Failure("a Git LFS pointer, not the image itself: fetch it with 'git lfs pull'")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        check_nifti(path)
    elif path.suffix.lower() in (".nrrd", ".nhdr"):
        check_nrrd(path)
    elif path.suffix.lower() in (".mha", ".mhd"):
        check_metaimage(path)


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
