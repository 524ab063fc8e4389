"""What a NIfTI file really holds, before a reader smooths it over.

SimpleITK reads NaN and infinity as 0, a spacing of 0 as 1, and fills the missing part of a truncated file with zeros,
all without a word. A pool of thousands of scans must not take these for images.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from nnssl.data.parallel import Failure


def check_nifti(path: Path) -> None:
    """Check header, length and (for floating-point files) values of a .nii or .nii.gz file.

    Raises:
        Failure: truncated or damaged, a spacing that is not positive, NaN or infinite voxels.
    """
    zipped = path.suffix.lower() == ".gz"
    if zipped and _first_bytes(path) != b"\x1f\x8b":
        raise Failure("not gzip data, although its name ends in .gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as f:
            header = read_nifti_header(f.read(544))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"damaged or truncated ({error})") from error
    shape = tuple(int(n) for n in header.get_data_shape())
    spacing = np.asarray(header["pixdim"][1 : 1 + min(3, len(shape))], dtype=float)
    if not (np.isfinite(spacing).all() and (np.abs(spacing) > 0).all()):
        raise Failure(f"voxel spacing {np.abs(spacing).tolist()} mm is not positive")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError) as error:
        raise Failure(f"NIfTI voxel type {int(header['datatype'])} does not exist") from error
    begin = int(header["vox_offset"]) or int(header.sizeof_hdr) + 4
    end = begin + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.kind == "f":
        _check_values(path, zipped, begin, end, dtype)
    elif not (_says_length(path, end) if zipped else path.stat().st_size >= end):
        _check_length(path, zipped, end)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(2)


def read_nifti_header(start: bytes) -> Nifti1Header:
    """Header of a NIfTI-1 or NIfTI-2 file from its first 544 bytes; raises Failure if it has none."""
    if len(start) < 348:
        raise Failure("not a NIfTI image (shorter than a header)")
    for cls, size in ((Nifti1Header, 348), (Nifti2Header, 540)):
        for order in "<>":
            if struct.unpack(f"{order}i", start[:4])[0] == size:
                return cls(start[:size], endianness=order, check=False)
    raise Failure("not a NIfTI image (no NIfTI header)")


def _says_length(path: Path, expected: int) -> bool:
    """A gzip file ends with its unpacked length; a truncated one ends with anything. No need to unpack it."""
    with path.open("rb") as f:
        f.seek(-4, 2)
        return struct.unpack("<I", f.read(4))[0] == expected % 2**32


def _check_length(path: Path, zipped: bool, expected: int) -> None:
    """Unpack the file in pieces: several gzip members or trailing bytes are fine, missing ones are not."""
    length = 0
    try:
        with gzip.open(path) if zipped else path.open("rb") as f:
            while piece := f.read(2**22):
                length += len(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"damaged or truncated ({error})") from error
    if length < expected:
        raise Failure(f"truncated: {length:,} of {expected:,} bytes are there")


def _check_values(path: Path, zipped: bool, begin: int, end: int, dtype: np.dtype) -> None:
    """Read floating-point voxels in pieces and count those that are not finite."""
    bad, left = 0, end - begin
    try:
        with gzip.open(path) if zipped else path.open("rb") as f:
            f.read(begin)
            while left > 0 and (piece := f.read(min(left, 2**22))):
                left -= len(piece)
                values = np.frombuffer(piece[: len(piece) // dtype.itemsize * dtype.itemsize], dtype)
                bad += int(values.size - np.isfinite(values).sum())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"damaged or truncated ({error})") from error
    if left > 0:
        raise Failure(f"truncated: {left:,} bytes are missing")
    if bad:
        raise Failure(f"{bad} voxel(s) are NaN or infinite")
