"""What an NRRD file (.nrrd, .nhdr) says about itself: length of its data, spacing, axes.

Format: Teem's "Definition of NRRD File Format". Readers fill in a spacing of 1 where there is none, and some take a
short file for a whole one.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from nnssl.data.memory import check_memory
from nnssl.data.parallel import Failure
from nnssl.data.payload import Payload

SIZES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort", "unsigned short",
        "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip
MOST_AXES = 16
"""Teem's limit."""
LONGEST_LINE = 10_000
FARTHEST = 1e6
"""mm: no axis or origin of a scan is larger."""
BYTES = {name: size for size, names in SIZES.items() for name in names}


def check_nrrd(path: Path) -> None:
    """Check header, data file and length.

    Raises:
        Failure: not an NRRD file, no valid spacing, data missing or truncated.
    """
    try:
        _check(path)
    except (ValueError, OverflowError) as error:  # a word where a number should be
        raise Failure("the NRRD header is damaged") from error


def _check(path: Path) -> None:
    fields, header_bytes = read_header(path)
    _check_spacing(fields)
    _check_places(fields)
    size = BYTES.get(fields.get("type", "").lower())
    if size is None:
        raise Failure(f"NRRD voxel type '{fields.get('type', '')}' is no number")
    sizes = [int(n) for n in fields.get("sizes", "").split()]
    if not sizes or min(sizes) < 1:
        raise Failure("NRRD header: sizes are missing or not positive")
    if len(sizes) > MOST_AXES or int(fields.get("dimension", "0")) != len(sizes):
        raise Failure(f"NRRD header: dimension {fields.get('dimension', 'missing')[:20]}, but {len(sizes)} sizes")
    check_memory(sizes)
    if "line skip" in fields or fields.get("byte skip", "0").strip() == "-1":
        return  # where the data begin is the reader's business then
    start = header_bytes + int(fields.get("byte skip", "0"))
    data = fields.get("data file", fields.get("datafile", ""))
    if data.upper().startswith("LIST") or "%" in data:
        return  # several data files: the reader names one that is missing
    payload = Payload(path.parent / data if data else path, int(fields.get("byte skip", "0")) if data else start)
    encoding = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(fields.get("encoding", "raw").lower())
    payload.check(math.prod(sizes) * size, encoding)


def is_time_list(path: Path) -> bool:
    """Whether the axis that is not space is a list or time, and no colour or vector."""
    fields, _ = read_header(path)
    kinds = fields.get("kinds", "").lower().split()
    return any(kind in ("list", "time") for kind in kinds)


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the header (lower case) and its length in bytes.

    Raises:
        Failure: not an NRRD file.
    """
    with path.open("rb") as f:
        if not f.readline(16).startswith(b"NRRD"):
            raise Failure("not an NRRD image (no NRRD header)")
        fields: dict[str, str] = {}
        while line := f.readline(2**16):
            if len(line) > LONGEST_LINE:  # Teem's parser may crash on it
                raise Failure("the NRRD header is damaged: a line without an end")
            text = line.decode("latin-1").strip()
            if not text:
                break
            name, separator, value = text.partition(": ")
            if separator and not text.startswith("#"):
                fields[name.strip().lower()] = value.strip()
        return fields, f.tell()


def _check_spacing(fields: dict[str, str]) -> None:
    if "space directions" in fields:
        vectors = [part.split(",") for part in re.findall(r"\(([^)]*)\)", fields["space directions"])]
        spacing = [float(np.linalg.norm([float(v) for v in vector])) for vector in vectors]
    elif "spacings" in fields:
        spacing = [abs(float(v)) for v in fields["spacings"].split() if v.lower() not in ("nan", "none")]
    else:
        raise Failure("the header gives no voxel spacing")
    if len(spacing) < 2 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise Failure(f"voxel spacing {spacing} mm is not positive")


def _check_places(fields: dict[str, str]) -> None:
    """Axes and origin must be lengths: ITK searches for minutes for the axes of a matrix with absurd numbers."""
    for name in ("space directions", "space origin", "measurement frame", "spacings"):
        words = re.findall(r"[^\s(),]+", fields.get(name, ""))
        numbers = [float(w) for w in words if w.lower() not in ("none", "nan")]
        if not all(abs(v) < FARTHEST for v in numbers):
            raise Failure(f"the NRRD header is damaged: {name} {fields[name][:60]}")
