"""Shape, spacing, type and orientation of raw cases from their headers alone, for data that have no fingerprint yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from nnssl.data.folders import RawCase
from nnssl.data.headers import read_header
from nnssl.data.parallel import Failure, run_cases

CHUNK = 64
"""Cases per task: a header takes a millisecond, handing over a task as long."""


@dataclass(frozen=True)
class Geometry:
    """What a header says.

    Attributes:
        shape: (Z, Y, X) voxels; a 2D image has Z = 1.
        spacing: (Z, Y, X) mm.
        dtype, orientation: see `nnssl.data.headers.Header`.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    dtype: str | None
    orientation: str | None


def read_headers(cases: Sequence[RawCase], channels: int, processes: int) -> tuple[dict[int, Geometry], dict[int, str]]:
    """Headers of cases, and the reason for each that has none to be read, both by position.

    Args:
        cases: raw cases; the first channel stands for all.
        channels: declared number of channels.
        processes: worker processes.
    """
    starts = range(0, len(cases), CHUNK)
    chunks = [tuple(cases[s : s + CHUNK]) for s in starts]
    done, lost = run_cases(partial(_read_chunk, channels=channels), chunks, processes, "headers")
    headers: dict[int, Geometry] = {}
    failures: dict[int, str] = {}
    for number, start in enumerate(starts):
        for offset in range(len(chunks[number])):
            found = done[number][offset] if number in done else lost[number]
            if isinstance(found, Geometry):
                headers[start + offset] = found
            else:
                failures[start + offset] = found
    return headers, failures


def _read_chunk(cases: Sequence[RawCase], *, channels: int) -> list[Geometry | str]:
    found: list[Geometry | str] = []
    for case in cases:
        try:
            found.append(read_geometry(case, channels))
        except Failure as failure:
            found.append(str(failure))
    return found


def read_geometry(case: RawCase, channels: int) -> Geometry:
    """Header of a case's first file.

    Raises:
        Failure: no such file, empty, not an image, or more than three axes.
    """
    path = Path(case.images[0])
    if not path.is_file():
        raise Failure(f"{path.name} does not exist (a dangling link?)")
    if path.stat().st_size == 0:
        raise Failure("the file is empty")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        header = read_header(path)
    except Exception as error:  # SimpleITK and nibabel raise whatever their libraries raise
        if path.open("rb").read(40).startswith(b"version https://git-lfs"):
            raise Failure("a Git LFS pointer, not the image itself: fetch it with 'git lfs pull'") from error
        raise Failure("the header cannot be read: not an image, or damaged") from error
    shape, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
    components = reader.GetNumberOfComponents()
    if len(shape) > 3:
        raise Failure(f"has {len(shape)} axes {'x'.join(map(str, shape))}: split it into 3D images (nnssl_import does)")
    found = len(case.images) if components == 1 else components
    if found != channels:
        raise Failure(f"has {found} channel(s), the dataset declares {channels}")
    flat = len(shape) == 2
    return Geometry(
        shape=(1, *shape) if flat else shape,
        spacing=(1.0, *spacing) if flat else spacing,
        dtype=header.dtype,
        orientation=header.orientation,
    )
