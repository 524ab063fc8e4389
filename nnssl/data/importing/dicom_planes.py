"""Where each plane of a multi-frame DICOM file lies.

GDCM reads the pixels of such files, but stacks time points on top of each other, and takes a spacing of 1 mm where
planes are not evenly spaced. The positions stand in nested sequences (DICOM PS3.3, C.7.6.16), which SimpleITK does
not hand out, so they are read here.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnssl.data.parallel import Failure

SHARED, PER_FRAME = (0x5200, 0x9229), (0x5200, 0x9230)
POSITION = ((0x20, 0x9113), (0x20, 0x32))
AXES = ((0x20, 0x9116), (0x20, 0x37))
SPACING = ((0x28, 0x9110), (0x28, 0x30))
INTERCEPT = ((0x28, 0x9145), (0x28, 0x1052))
SLOPE = ((0x28, 0x9145), (0x28, 0x1053))
SEQUENCES = {SHARED, PER_FRAME, POSITION[0], AXES[0], SPACING[0], SLOPE[0]}
PIXELS = (0x7FE0, 0x10)
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
UNDEFINED = 0xFFFFFFFF
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
IMPLICIT = "1.2.840.10008.1.2"
OTHERS = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
"""Big endian and deflated files: too rare to be read here."""

Elements = dict[tuple[int, int], Any]


@dataclass(frozen=True)
class Plane:
    """Position of the first voxel (x, y, z), directions of a row and a column, pixel spacing (y, x); mm."""

    position: tuple[float, ...]
    axes: tuple[float, ...]
    spacing: tuple[float, ...]
    rescale: tuple[float, float]


def read_planes(path: Path, transfer_syntax: str) -> tuple[Plane, ...]:
    """Planes of a multi-frame file, in the order of its pixels.

    Raises:
        Failure: the file does not say where they lie.
    """
    if transfer_syntax in OTHERS:
        raise Failure("a multi-frame file in a rare encoding (big endian or deflated)")
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            found = _Parser(data, explicit=transfer_syntax != IMPLICIT).parse(132 if data[128:132] == b"DICM" else 0)
        except (struct.error, IndexError) as error:
            raise Failure("a multi-frame file whose header is damaged") from error
    shared = (found.get(SHARED) or [{}])[0]
    planes = []
    for own in found.get(PER_FRAME, []):
        position, axes, spacing = (_numbers(own, shared, *where) for where in (POSITION, AXES, SPACING))
        if len(position) != 3 or len(axes) != 6 or len(spacing) != 2 or min(spacing) <= 0:
            break
        slope, intercept = _numbers(own, shared, *SLOPE), _numbers(own, shared, *INTERCEPT)
        rescale = (slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)
        planes.append(Plane(position, axes, spacing, rescale))
    else:
        if planes:
            return tuple(planes)
    raise Failure("a multi-frame file that does not say where its slices lie")


def _numbers(own: Elements, shared: Elements, sequence: tuple[int, int], tag: tuple[int, int]) -> tuple[float, ...]:
    """An element of a plane, or of all planes; empty if it is missing or no numbers."""
    items = own.get(sequence) or shared.get(sequence) or [{}]
    try:
        return tuple(float(part) for part in items[0].get(tag, b"").decode("ascii", "replace").split("\\"))
    except ValueError:
        return ()


class _Parser:
    """Little endian DICOM data sets; keeps the sequences named above and the short elements in them."""

    def __init__(self, data: mmap.mmap, explicit: bool) -> None:
        self.data = data
        self.explicit = explicit

    def parse(self, at: int) -> Elements:
        return self.elements(at, len(self.data))[0]

    def elements(self, at: int, end: int) -> tuple[Elements, int]:
        """Elements from `at` to `end`, or to the end of the item; and where that was."""
        found: Elements = {}
        while at + 8 <= end:
            tag, kind, length, at = self.head(at)
            if tag in (PIXELS, ITEM_END):
                break
            if tag in SEQUENCES or kind == b"SQ" or length == UNDEFINED:
                value, at = self.items(at, end if length == UNDEFINED else at + length)
                if tag in SEQUENCES:
                    found[tag] = value
                continue
            if length <= 256:
                found[tag] = self.data[at : at + length].strip(b"\0 ")
            at += length
        return found, at

    def items(self, at: int, end: int) -> tuple[list[Elements], int]:
        found = []
        while at + 8 <= end:
            group, element, length = struct.unpack("<HHI", self.data[at : at + 8])
            at += 8
            if (group, element) == SEQUENCE_END:
                break
            if (group, element) != ITEM:
                raise struct.error("no item")
            value, after = self.elements(at, end if length == UNDEFINED else at + length)
            at = after if length == UNDEFINED else at + length
            found.append(value)
        return found, at

    def head(self, at: int) -> tuple[tuple[int, int], bytes, int, int]:
        """Tag, VR (empty if implicit), length, and where the value begins."""
        group, element = struct.unpack("<HH", self.data[at : at + 4])
        if group == 0xFFFE or not (self.explicit or group == 2):
            return (group, element), b"", struct.unpack("<I", self.data[at + 4 : at + 8])[0], at + 8
        kind = self.data[at + 4 : at + 6]
        if kind in LONG:
            return (group, element), kind, struct.unpack("<I", self.data[at + 8 : at + 12])[0], at + 12
        return (group, element), kind, struct.unpack("<H", self.data[at + 6 : at + 8])[0], at + 8
