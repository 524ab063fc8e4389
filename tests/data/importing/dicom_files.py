"""DICOM files for tests, byte by byte (explicit VR, little endian): with a patient, and with any geometry and slope.

SimpleITK can write single images too, but not sequences, structure sets, reports, or a slope that differs by slice.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PET = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
ROOT = "1.2.826.0.1.3680043.8.498.77"

PATIENT = "Mustermann^Erika"
PATIENT_ID = "PID4711"
BIRTH = "19380212"
STUDY_DATE = "20190531"
SECRETS = (PATIENT, "Mustermann", PATIENT_ID, BIRTH, STUDY_DATE, ROOT, "Klinikum", "Dr^House", "ACC0815", "lesion of")
"""None of this may be found in a pool."""

LONG = ("OB", "OW", "SQ", "UN", "UT")
Elements = Mapping[tuple[int, int], tuple[str, Any]]


def encode(elements: Elements, explicit: bool = True, lengths: bool = True) -> bytes:
    """A data set: {(group, element): (VR, value)}; sequences are lists of such.

    `explicit=False` leaves out the VRs; `lengths=False` ends sequences and items with delimiters.
    """
    return b"".join(_element(tag, *elements[tag], explicit, lengths) for tag in sorted(elements))


def _element(tag: tuple[int, int], kind: str, value: Any, explicit: bool = True, lengths: bool = True) -> bytes:
    head = struct.pack("<HH", *tag)
    if kind == "SQ":
        items = [encode(item, explicit, lengths) for item in value]
        head += b"SQ\0\0" if explicit else b""
        if lengths:
            data = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
            return head + struct.pack("<I", len(data)) + data
        begin, end = struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        data = b"".join(begin + item + end for item in items)
        return head + struct.pack("<I", 2**32 - 1) + data + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    if kind == "US":
        data = b"".join(struct.pack("<H", v) for v in np.atleast_1d(value))
    elif isinstance(value, bytes):
        data = value
    else:
        text = "\\".join(str(v) for v in value) if isinstance(value, (list, tuple)) else str(value)
        data = text.encode("latin-1")
    if len(data) % 2:
        data += b"\0" if kind in ("UI", "OB") else b" "
    if not explicit:
        return head + struct.pack("<I", len(data)) + data
    long = struct.pack("<HI", 0, len(data)) if kind in LONG else struct.pack("<H", len(data))
    return head + kind.encode() + long + data


def write_dicom(
    path: Path, elements: Elements, marker: bool = True, explicit: bool = True, lengths: bool = True
) -> None:
    """Write a file; the meta group comes from the elements. `marker=False` leaves out the preamble, as old files do."""
    meta = {
        (2, 1): ("OB", b"\0\1"),
        (2, 2): ("UI", elements[8, 0x16][1]),
        (2, 3): ("UI", elements[8, 0x18][1]),
        (2, 0x10): ("UI", EXPLICIT if explicit else IMPLICIT),
        (2, 0x12): ("UI", ROOT),
    }
    body = encode(meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = b"\0" * 128 + b"DICM" if marker else b""
    path.write_bytes(
        start + _element((2, 0), "UL", struct.pack("<I", len(body))) + body + encode(elements, explicit, lengths)
    )


def patient(sop_class: str, modality: str, series: int, instance: int, **more: str) -> dict[tuple[int, int], Any]:
    """Everything that must not get into a pool, and the identifiers."""
    return {
        (8, 5): ("CS", "ISO_IR 100"),
        (8, 8): ("CS", more.get("image_type", "ORIGINAL\\PRIMARY\\AXIAL")),
        (8, 0x16): ("UI", sop_class),
        (8, 0x18): ("UI", f"{ROOT}.{series}.{instance}"),
        (8, 0x20): ("DA", STUDY_DATE),
        (8, 0x30): ("TM", "101112"),
        (8, 0x50): ("SH", "ACC0815"),
        (8, 0x60): ("CS", modality),
        (8, 0x80): ("LO", "Klinikum Musterstadt"),
        (8, 0x90): ("PN", "Dr^House"),
        (8, 0x103E): ("LO", "lesion of Mustermann"),
        (0x10, 0x10): ("PN", PATIENT),
        (0x10, 0x20): ("LO", more.get("patient_id", PATIENT_ID)),
        (0x10, 0x30): ("DA", BIRTH),
        (0x10, 0x40): ("CS", "F"),
        (0x20, 0xD): ("UI", f"{ROOT}.1"),
        (0x20, 0xE): ("UI", f"{ROOT}.{series}"),
        (0x20, 0x10): ("SH", "ACC0815"),
        (0x20, 0x13): ("IS", instance),
    }


def image(
    pixels: np.ndarray,
    series: int,
    instance: int,
    position: Sequence[float] | None,
    sop_class: str = CT,
    modality: str = "CT",
    axes: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.7, 0.8),
    rescale: tuple[float, float] = (1, -1024),
    extra: Elements | None = None,
    **more: str,
) -> dict[tuple[int, int], Any]:
    """Elements of one image of (rows, columns[, 3]) stored values, uint16 or (colour) uint8."""
    elements = patient(sop_class, modality, series, instance, **more)
    colour = pixels.ndim == 3
    bits = 8 if colour else 16
    elements |= {
        (0x28, 2): ("US", 3 if colour else 1),
        (0x28, 4): ("CS", "RGB" if colour else "MONOCHROME2"),
        (0x28, 0x10): ("US", pixels.shape[0]),
        (0x28, 0x11): ("US", pixels.shape[1]),
        (0x28, 0x100): ("US", bits),
        (0x28, 0x101): ("US", bits),
        (0x28, 0x102): ("US", bits - 1),
        (0x28, 0x103): ("US", 0),
        (0x7FE0, 0x10): ("OB" if colour else "OW", pixels.astype("u1" if colour else "<u2").tobytes()),
    }
    if colour:
        elements[0x28, 6] = ("US", 0)
    else:
        elements |= {(0x28, 0x1052): ("DS", rescale[1]), (0x28, 0x1053): ("DS", rescale[0])}
    if position is not None:
        elements |= {
            (0x20, 0x32): ("DS", [f"{v:.6g}" for v in position]),
            (0x20, 0x37): ("DS", [f"{v:.8g}" for v in axes]),
            (0x28, 0x30): ("DS", list(spacing)),
            (0x18, 0x50): ("DS", 9),  # SliceThickness: wrong on purpose, nobody may use it
        }
    return {**elements, **(extra or {})}


def volume(shape: tuple[int, int, int] = (10, 20, 24), seed: int = 0) -> np.ndarray:
    """Stored values (Z, Y, X), uint16, 0 to 2000: noise around a bright box."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 100, shape)
    stored[2:-2, 5:-5, 6:-6] += 1100 + 50 * (seed % 7)
    return stored.astype(np.uint16)


def write_series(
    folder: Path,
    stored: np.ndarray,
    series: int = 1,
    step: Sequence[float] = (0, 0, 2.5),
    skip: Sequence[int] = (),
    first: int = 1,
    rescales: Sequence[tuple[float, float]] | None = None,
    origin: Sequence[float] = (-100, -90, 40),
    **how: Any,
) -> list[Path]:
    """A series with slice z at origin + z * step; files are named so that their order is not the slices'.

    Args:
        folder: of the files.
        stored: (Z, Y, X) stored values.
        series: number of the series.
        step: from slice to slice, mm (x, y, z).
        skip: slices that are missing.
        first: instance number of the first slice.
        rescales: slope and intercept per slice.
        origin: position of the first slice.
        how: as for `image`.
    """
    paths = []
    for z, pixels in enumerate(stored):
        if z in skip:
            continue
        position = np.array(origin, float) + z * np.array(step, float)
        more = {"rescale": rescales[z]} if rescales else {}
        path = folder / f"IM{(7 * z + first) % 97:04d}_{series}_{first + z}"
        write_dicom(path, image(pixels, series, first + z, position.tolist(), **{**how, **more}))
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    stored: np.ndarray,
    series: int,
    heights: Sequence[float] | None = None,
    slopes: Sequence[float] = (1.0,),
    **how: bool,
) -> None:
    """A multi-frame file (Enhanced CT): all slices in one, geometry and slope in functional groups.

    Args:
        path: of the file.
        stored: (planes, Y, X) stored values.
        series: number of the series.
        heights: z of each plane, mm; 2.5 mm apart if not given.
        slopes: one for all planes, or one for each.
        how: as for `write_dicom`.
    """
    elements = image(stored[0], series, 1, None, sop_class=ENHANCED_CT, image_type="ORIGINAL\\PRIMARY\\VOLUME\\NONE")
    for tag in ((0x28, 0x1052), (0x28, 0x1053)):
        del elements[tag]
    shared: dict[tuple[int, int], Any] = {
        (0x20, 0x9116): ("SQ", [{(0x20, 0x37): ("DS", [1, 0, 0, 0, 1, 0])}]),
        (0x28, 0x9110): ("SQ", [{(0x18, 0x50): ("DS", 9), (0x28, 0x30): ("DS", [0.7, 0.8])}]),
    }
    frames: list[dict[tuple[int, int], Any]] = [
        {(0x20, 0x9113): ("SQ", [{(0x20, 0x32): ("DS", [-100, -90, z])}])}
        for z in (heights or [40 + 2.5 * k for k in range(len(stored))])
    ]
    for group, slope in zip([shared] if len(slopes) == 1 else frames, slopes):
        group[0x28, 0x9145] = ("SQ", [{(0x28, 0x1052): ("DS", -1024), (0x28, 0x1053): ("DS", slope)}])
    elements |= {
        (0x28, 8): ("IS", len(stored)),
        (0x5200, 0x9229): ("SQ", [shared]),
        (0x5200, 0x9230): ("SQ", frames),
        (0x7FE0, 0x10): ("OW", stored.astype("<u2").tobytes()),
    }
    write_dicom(path, elements, **how)
