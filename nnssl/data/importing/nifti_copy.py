"""Copying a NIfTI file without the words in it."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from nnssl.data.nifti import read_nifti_header

TEXT_FIELDS = ("descrip", "aux_file", "intent_name")
OLD_FIELDS = {"data_type": b"", "db_name": b"", "extents": 0, "session_error": 0}
COMPRESSION = 3


def copy_nifti(source: Path, target: Path) -> None:
    """Write `source` (.nii, .nii.gz) to `target` (.nii.gz): voxels and geometry byte by byte, no words.

    Text fields and extensions are left empty, what follows the voxels is left out, and the gzip header holds neither
    a file name nor a time.
    """
    with _open(source) as f:
        header = read_nifti_header(f.read(544))
    offset = int(header["vox_offset"]) or int(header.sizeof_hdr) + 4
    left = int(np.prod(header.get_data_shape(), dtype=np.int64)) * header.get_data_dtype().itemsize
    blank_text(header)
    header["vox_offset"] = int(header.sizeof_hdr) + 4
    start = io.BytesIO()
    start.write(header.binaryblock)
    start.write(b"\0\0\0\0")  # no extensions
    with _open(source) as f, target.open("wb") as raw:
        f.read(offset)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=raw, mtime=0) as out:
            out.write(start.getvalue())
            while left > 0 and (piece := f.read(min(left, 2**22))):  # bytes behind the voxels may be anything
                out.write(piece)
                left -= len(piece)


def blank_text(header: Nifti1Header | Nifti2Header) -> None:
    """Empty every field that may hold words."""
    for name in TEXT_FIELDS:
        header[name] = b""
    for name, value in OLD_FIELDS.items():
        if name in header:
            header[name] = value


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")
