"""What an image file says of itself, without reading its voxels."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
import tifffile
from PIL import Image

from nnssl.data.nifti import read_nifti_header

GEOMETRY = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl")
"""Endings of formats that know orientation and spacing."""


@dataclass(frozen=True)
class Header:
    """Facts from a file's header.

    Attributes:
        dtype: NumPy's name of the voxel type on disk, before slope and intercept; None where it cannot be told.
        orientation: three letters for the directions in which x, y and z grow (`LPS`: to the left, back and head);
            None for formats without geometry. Oblique images have the nearest one.
    """

    dtype: str | None
    orientation: str | None


def read_header(file: str | Path) -> Header:
    """Header of an image file; formats without geometry (PNG, TIFF) have a voxel type only."""
    name = Path(file).name.casefold()
    if name.endswith((".tif", ".tiff")):
        with tifffile.TiffFile(file) as tiff:
            return Header(str(tiff.pages[0].dtype), None)
    if name.endswith((".png", ".bmp", ".jpg", ".jpeg")):
        with Image.open(file) as image:
            return Header(_MODES.get(image.mode, "uint8"), None)
    if not name.endswith(GEOMETRY):
        return Header(None, None)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        orientation = orientation_of(reader.GetDirection())
    except RuntimeError:  # another reader of nnU-Net's may read what ITK refuses: axes not at right angles, say
        orientation = None
    if name.endswith((".nii", ".nii.gz")):  # SimpleITK names the type after scaling
        with gzip.open(file) if name.endswith(".gz") else Path(file).open("rb") as opened:
            return Header(read_nifti_header(opened.read(544)).get_data_dtype().name, orientation)
    if orientation is None:
        return Header(None, None)
    return Header(_NAMES.get(sitk.GetPixelIDValueAsString(reader.GetPixelID())), orientation)


def orientation_of(direction: tuple[float, ...]) -> str | None:
    """Three letters of a direction matrix of 3 x 3 (or 4 x 4, of a time series) numbers; None of any other."""
    n = round(len(direction) ** 0.5)
    if n < 3:
        return None
    cosines = [direction[row * n + column] for row in range(3) for column in range(3)]
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(cosines)


_NAMES = {
    "8-bit unsigned integer": "uint8",
    "8-bit signed integer": "int8",
    "16-bit unsigned integer": "uint16",
    "16-bit signed integer": "int16",
    "32-bit unsigned integer": "uint32",
    "32-bit signed integer": "int32",
    "64-bit unsigned integer": "uint64",
    "64-bit signed integer": "int64",
    "32-bit float": "float32",
    "64-bit float": "float64",
}
_MODES = {"1": "bool", "I": "int32", "I;16": "uint16", "I;16B": "uint16", "F": "float32"}
"""Pillow's modes that are not of eight bits."""
