"""What a MetaImage file (.mha, .mhd) says about itself: length of its data and spacing.

Format: ITK's MetaIO. Readers take a spacing of 1 where there is none.
"""

from __future__ import annotations

import math
from pathlib import Path

from nnssl.data.memory import check_memory
from nnssl.data.parallel import Failure
from nnssl.data.payload import Payload

BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_DOUBLE": 8,
}  # fmt: skip


PLACES = ("transformmatrix", "rotation", "orientation", "offset", "position", "origin", "centerofrotation")
FARTHEST = 1e6
"""mm: no axis or origin of a scan is larger."""
MOST_AXES = 10
"""MetaIO's limit."""
LONGEST_LINE = 10_000


def check_metaimage(path: Path) -> None:
    """Check header, data file and length.

    Raises:
        Failure: not a MetaImage, no valid spacing, data missing or truncated.
    """
    try:
        _check(path)
    except (ValueError, OverflowError) as error:  # a word where a number should be
        raise Failure("the MetaImage header is damaged") from error


def _check(path: Path) -> None:
    fields, header_bytes = read_header(path)
    _check_places(fields)
    spacing = _numbers(fields, "elementspacing") or _numbers(fields, "elementsize")
    if not spacing:
        raise Failure("the header gives no voxel spacing")
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise Failure(f"voxel spacing {spacing} mm is not positive")
    size = BYTES.get(fields.get("elementtype", ""))
    sizes = _numbers(fields, "dimsize")
    if size is None or not sizes or min(sizes) < 1:
        raise Failure("MetaImage header: DimSize or ElementType is missing or unknown")
    if len(sizes) > MOST_AXES or int(fields.get("ndims", "0")) != len(sizes) or len(spacing) < len(sizes):
        raise Failure(f"MetaImage header: NDims {fields.get('ndims', 'missing')[:20]}, but {len(sizes)} sizes")
    channels = int(fields.get("elementnumberofchannels", "1"))
    if channels < 1:
        raise Failure(f"MetaImage header: {channels} channels")
    check_memory([int(n) for n in sizes] + [channels])
    data = fields["elementdatafile"]
    if data.upper().startswith("LIST") or "%" in data or fields.get("binarydata", "true").lower() == "false":
        return  # several data files, or text: the reader names what is missing
    local = data.upper() == "LOCAL"
    skip = int(fields.get("headersize", "0"))
    if skip < 0:
        return  # the data are the file's end, whatever stands before them
    compressed = fields.get("compresseddata", "false").lower() == "true"
    payload = Payload(path if local else path.parent / data, (header_bytes if local else 0) + skip)
    payload.check(int(math.prod(sizes)) * channels * size, "zlib" if compressed else "raw")
    packed = int(fields.get("compresseddatasize", "0")) if compressed else 0  # ITK makes room for so much
    if not 0 <= packed <= payload.path.stat().st_size:
        raise Failure(f"the MetaImage header is damaged: CompressedDataSize {fields['compresseddatasize'][:20]}")


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the header (keys in lower case) and its length in bytes.

    Raises:
        Failure: not a MetaImage.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as f:
        for _ in range(1000):
            name, separator, value = f.readline(LONGEST_LINE).decode("latin-1").partition("=")
            if not separator:
                break
            fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "elementdatafile":
                return fields, f.tell()
    raise Failure("not a MetaImage (its header names no data)")


def _numbers(fields: dict[str, str], name: str) -> list[float]:
    return [float(v) for v in fields.get(name, "").split()]


def _check_places(fields: dict[str, str]) -> None:
    """Axes and origin must be lengths: ITK searches without end for the axes of a matrix with absurd numbers."""
    for name in PLACES:
        if not all(abs(v) < FARTHEST for v in _numbers(fields, name)):
            raise Failure(f"the MetaImage header is damaged: {name} {fields[name][:60]}")
