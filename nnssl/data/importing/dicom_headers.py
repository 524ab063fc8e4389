"""DICOM headers, read by GDCM: only what decides which images form a volume. Nothing of it is ever written."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from nnssl.data.importing.dicom_planes import Plane, read_planes
from nnssl.data.parallel import Failure

UNMARKED_ENDINGS = ("", ".dcm", ".dicom", ".ima", ".dic")
"""Old DICOM files have no marker at byte 128; files with these endings are offered to GDCM all the same."""

NOT_IMAGES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, a table of contents",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation object (SEG), not an image",
    "1.2.840.10008.5.1.4.1.1.66": "raw data, not an image",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration, not an image",
    "1.2.840.10008.5.1.4.1.1.481.2": "an RT dose, not an image",
    "1.2.840.10008.5.1.4.1.1.481.3": "an RT structure set (RTSTRUCT), not an image",
    "1.2.840.10008.5.1.4.1.1.481.5": "an RT plan, not an image",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document, not an image",
}
"""SOP classes (DICOM PS3.4 annex B) that are left out, and what they are."""

NOT_IMAGE_FAMILIES = {
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report (SR), not an image",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state (PR), not an image",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform, not an image",
    "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object, not an image",
    "1.2.840.10008.5.1.4.1.1.7.": "a secondary capture (a screenshot or a scanned page)",
}

ENHANCED = (".1.1.2.1", ".1.1.4.1", ".1.1.130", ".1.1.128.1", ".1.1.2.2", ".1.1.4.4")
"""Ends of the SOP classes Enhanced CT, MR and PET, and of the legacy converted ones."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

FRAME_TAGS = {
    "image_type": "0008|0008",
    "echo_time": "0018|0081",
    "temporal_position": "0020|0100",
    "acquisition": "0020|0012",
    "trigger_time": "0018|1060",
    "b_value": "0018|9087",
    "acquisition_time": "0008|0032",
    "content_time": "0008|0033",
}
"""What tells apart volumes that lie at the same place in one series, in the order in which it is tried."""

READ_TAGS = (
    "0008|0016", "0008|0018", "0008|0060", "0010|0020", "0010|0030", "0010|0040", "0020|000d", "0020|000e", "0020|0013",
    "0020|0032", "0020|0037", "0028|0002", "0028|0004", "0028|0030", "0028|1052", "0028|1053", *FRAME_TAGS.values(),
)  # fmt: skip
"""All that is looked at."""


@dataclass(frozen=True)
class Header:
    """One image file. Lengths in mm, positions in DICOM's patient coordinates (LPS)."""

    path: str
    sop_class: str
    instance: str
    series: str
    patient: str
    modality: str
    image_type: tuple[str, ...]
    size: tuple[int, int, int]  # columns, rows, frames
    colour: bool
    number: float
    pixel_spacing: tuple[float, float] | None  # y, x as DICOM writes them: between rows, between columns
    position: tuple[float, float, float] | None
    axes: tuple[float, ...] | None  # direction of a row, direction of a column
    rescale: tuple[float, float]  # slope, intercept
    marks: dict[str, str] = field(default_factory=dict)  # FRAME_TAGS
    planes: tuple[Plane, ...] = ()  # of a multi-frame file
    plane: int = -1  # which of these, for one plane of such a file

    @property
    def key(self) -> tuple[str, int]:
        """What no other image has: UIDs may have been blanked by an anonymiser."""
        return self.path, self.plane


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's marker, or GDCM recognises it although it has none."""
    with path.open("rb") as f:
        start = f.read(132)
    if start[128:] == b"DICM":
        return True
    if path.suffix.lower() not in UNMARKED_ENDINGS or len(start) < 132:
        return False
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # GDCM does not know it: some other file without an ending
        return False
    return True


def what_instead_of_an_image(sop_class: str) -> str:
    """Why objects of this SOP class are left out; empty for images."""
    if sop_class == SECONDARY_CAPTURE:
        return NOT_IMAGE_FAMILIES[SECONDARY_CAPTURE + "."]
    if sop_class in NOT_IMAGES:
        return NOT_IMAGES[sop_class]
    if sop_class == "1.2.840.10008.5.1.4.1.1.481.1":
        return "a radiotherapy image (RTIMAGE), no volume"
    return next((text for start, text in NOT_IMAGE_FAMILIES.items() if sop_class.startswith(start)), "")


def read_header(path: Path) -> Header:
    """Header of one DICOM image.

    Raises:
        Failure: not an image (says what it is), or GDCM cannot read it.
    """
    meta = file_meta(path)
    sop_class = meta.get((2, 2), "")
    if reason := what_instead_of_an_image(sop_class):
        raise Failure(reason)
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # GDCM's message holds the path and nothing that helps
        raise Failure("not an image that GDCM can read (damaged, or an object without pixels)") from error
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in READ_TAGS if reader.HasMetaDataKey(key)}
    sop_class = tags.get("0008|0016", sop_class)
    if reason := what_instead_of_an_image(sop_class):
        raise Failure(reason)
    size = (*reader.GetSize(), 1)[:3]
    enhanced = size[2] > 1 and sop_class.endswith(ENHANCED)
    # Anonymisers give all patients one number; date of birth and sex then still tell most of them apart.
    person = [tags.get(tag, "") for tag in ("0010|0020", "0010|0030", "0010|0040")]
    patient = "|".join(person) if person[0] else ""
    spacing = _numbers(tags.get("0028|0030", ""), 2)
    position = _numbers(tags.get("0020|0032", ""), 3)
    number = _numbers(tags.get("0020|0013", ""), 1)
    slope, intercept = _numbers(tags.get("0028|1053", ""), 1), _numbers(tags.get("0028|1052", ""), 1)
    return Header(
        path=str(path),
        sop_class=sop_class,
        instance=tags.get("0008|0018", ""),
        series="|".join([patient, tags.get("0020|000d", ""), tags.get("0020|000e", "") or str(path.parent)]),
        patient=patient,
        modality=tags.get("0008|0060", "").upper(),
        image_type=tuple(part.strip().upper() for part in tags.get("0008|0008", "").split("\\")),
        size=(int(size[0]), int(size[1]), int(size[2])),
        colour=reader.GetNumberOfComponents() > 1
        or tags.get("0028|0002", "1") != "1"
        or tags.get("0028|0004", "").startswith("PALETTE"),
        number=number[0] if number else 0.0,
        pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        position=(position[0], position[1], position[2]) if position else None,
        axes=_numbers(tags.get("0020|0037", ""), 6),
        rescale=(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0),
        marks={name: tags.get(tag, "") for name, tag in FRAME_TAGS.items()},
        planes=read_planes(path, meta.get((2, 0x10), "")) if enhanced else (),
    )


def file_meta(path: Path) -> dict[tuple[int, int], str]:
    """Text elements of a DICOM file's meta group (0002): always explicit VR, little endian (DICOM PS3.10, 7.1).

    It names the SOP class also of objects that GDCM's image reader refuses. Empty if the file has no such group.
    """
    with path.open("rb") as f:
        start = f.read(132 + 4096)
    found: dict[tuple[int, int], str] = {}
    at = 132
    while start[128:132] == b"DICM" and at + 8 <= len(start):
        group, element, kind = struct.unpack("<HH2s", start[at : at + 6])
        if group != 2:
            break
        if kind in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            (length,), begin = struct.unpack("<I", start[at + 8 : at + 12]), at + 12
        else:
            (length,), begin = struct.unpack("<H", start[at + 6 : at + 8]), at + 8
        found[group, element] = start[begin : begin + length].decode("ascii", "replace").strip("\0 ")
        at = begin + length
    return found


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    return reader


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    """`1\\0\\0` -> numbers; None unless there are `count` finite ones."""
    try:
        values = tuple(float(part) for part in text.split("\\")[:count])
    except ValueError:
        return None
    return values if len(values) == count and all(abs(v) < 1e30 for v in values) else None
