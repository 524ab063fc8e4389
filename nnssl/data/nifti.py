"""What a NIfTI file really holds, before a reader smooths it over.

SimpleITK reads NaN and infinity as 0, a spacing of 0 as 1, and fills the missing part of a truncated file with zeros,
all without a word. A pool of thousands of scans must not take these for images.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from nnssl.data.memory import check_memory
from nnssl.data.parallel import Failure

FARTHEST = 1e6
"""mm: no axis or origin of a scan is larger. ITK searches for minutes for the axes of a matrix with absurd numbers."""
MAGIC = {348: (b"n+1\0", b"ni1\0"), 540: (b"n+2\0", b"ni2\0")}
PIECE = 2**22


def check_nifti(path: Path) -> None:
    """Check header, length and (for floating-point files) values of a .nii or .nii.gz file.

    Raises:
        Failure: truncated or damaged, larger than memory, a spacing that is not positive, NaN or infinite voxels.
    """
    zipped = path.suffix.lower() == ".gz"
    if zipped and _first_bytes(path) != b"\x1f\x8b":
        raise Failure("not gzip data, although its name ends in .gz")
    try:
        with gzip.open(path) if zipped else path.open("rb") as f:
            header = read_nifti_header(f.read(544))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"damaged or truncated ({error})") from error
    shape = _shape(header)
    spacing = np.asarray(header["pixdim"][1 : 1 + min(3, len(shape))], dtype=float)
    if not (np.isfinite(spacing).all() and (np.abs(spacing) > 0).all()):
        raise Failure(f"voxel spacing {np.abs(spacing).tolist()} mm is not positive")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError) as error:
        raise Failure(f"NIfTI voxel type {int(header['datatype'])} does not exist") from error
    _check_places(header)
    check_memory(shape)
    begin = int(header["vox_offset"]) or int(header.sizeof_hdr) + 4
    end = begin + math.prod(shape) * dtype.itemsize
    if dtype.kind == "f":
        _check_values(path, zipped, begin, end, dtype)
    elif not (_says_length(path, end) if zipped else path.stat().st_size >= end):
        _check_length(path, zipped, end)


def _shape(header: Nifti1Header) -> tuple[int, ...]:
    """Voxels of each axis."""
    axes = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : 1 + axes]) if 1 <= axes <= 7 else ()
    if not shape or min(shape) < 1:
        raise Failure(f"the NIfTI header is damaged: dimensions {[int(n) for n in header['dim']]}")
    return shape


def _check_places(header: Nifti1Header) -> None:
    """Where the voxels begin in the file, and where they lie in space."""
    begin = float(header["vox_offset"])
    if not (math.isfinite(begin) and 0 <= begin < 2**40):
        raise Failure(f"the NIfTI header is damaged: its voxels begin at byte {begin:g}")
    numbers = []
    if int(header["sform_code"]) > 0:
        numbers += [header["srow_x"], header["srow_y"], header["srow_z"]]
    if int(header["qform_code"]) > 0:
        numbers += [
            header[f"{name}_{axis}"] for name, axes in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in axes
        ]
    for some in numbers:
        if not np.all(np.abs(np.asarray(some, dtype=float)) < FARTHEST):  # NaN is no smaller than anything
            raise Failure("the NIfTI header is damaged: axes or origin are no lengths in mm")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(2)


def read_nifti_header(start: bytes) -> Nifti1Header:
    """Header of a NIfTI-1 or NIfTI-2 file from its first 544 bytes; raises Failure if it has none."""
    if len(start) < 348:
        raise Failure("not a NIfTI image (shorter than a header)")
    for cls, size in ((Nifti1Header, 348), (Nifti2Header, 540)):
        for order in "<>":
            if struct.unpack(f"{order}i", start[:4])[0] == size and len(start) >= size:
                header = cls(start[:size], endianness=order, check=False)
                if not bytes(header["magic"]).ljust(4, b"\0").startswith(MAGIC[size]):
                    raise Failure("the NIfTI header is damaged (no magic word; readers would take it for Analyze)")
                return header
    raise Failure("not a NIfTI image (no NIfTI header)")


def _says_length(path: Path, expected: int) -> bool:
    """A gzip file ends with its unpacked length modulo 4 GiB; a truncated one ends with anything. No need to unpack it."""
    if expected >= 2**32:
        return False
    with path.open("rb") as f:
        f.seek(-4, 2)
        return struct.unpack("<I", f.read(4))[0] == expected


def _check_length(path: Path, zipped: bool, expected: int) -> None:
    """Unpack the file in pieces: several gzip members or trailing bytes are fine, missing ones are not."""
    length = 0
    try:
        with gzip.open(path) if zipped else path.open("rb") as f:
            while piece := f.read(PIECE):
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
            while begin > 0 and (piece := f.read(min(begin, PIECE))):
                begin -= len(piece)
            while left > 0 and (piece := f.read(min(left, PIECE))):
                left -= len(piece)
                values = np.frombuffer(piece[: len(piece) // dtype.itemsize * dtype.itemsize], dtype)
                bad += int(values.size - np.isfinite(values).sum())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Failure(f"damaged or truncated ({error})") from error
    if left > 0:
        raise Failure(f"truncated: {left:,} bytes are missing")
    if bad:
        raise Failure(f"{bad} voxel(s) are NaN or infinite")
