"""Reading what was found into 3D images with one grid per frame, and no metadata."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header

from nnssl.data.importing.frames import split_frames, without_metadata
from nnssl.data.importing.items import DICOM, Item
from nnssl.data.importing.orientation import nearest_rotation, shear_angle
from nnssl.data.nifti import read_nifti_header
from nnssl.data.nrrd import is_time_list
from nnssl.data.parallel import Failure

SHEAR_DEGREES = 0.5
UNREADABLE = "its pixels cannot be read (damaged, truncated, or a compression that GDCM lacks)"


@dataclass(frozen=True)
class Volume:
    """One frame of an item.

    Attributes:
        frame: its number from 0, of `frames` in all.
        images: 3D, one per channel.
        as_is: the files on disk, one per channel, if they hold just this volume; else empty.
        notes: what reading had to change.
    """

    frame: int
    frames: int
    images: tuple[sitk.Image, ...]
    as_is: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pick_frames(there: int, wanted: int | None) -> list[int]:
    """`wanted` of `there` frames, spread evenly over time; None or too many = all."""
    if wanted is None or wanted >= there:
        return list(range(there))
    return sorted({round(t) for t in np.linspace(0, there - 1, wanted)}) if wanted > 1 else [0]


def load_volumes(item: Item, wanted: int | None) -> Iterator[Volume]:
    """Frames of an item, in order; only one item's voxels are in memory at a time.

    Raises:
        Failure: cannot be read, or is no image of scalars.
    """
    if item.kind == DICOM:
        yield from _dicom(item, wanted)
        return
    files = item.files[0]
    loaded = [_read_file(Path(file)) for file in files]
    notes = tuple(dict.fromkeys(note for _, some in loaded for note in some))
    images = [image for image, _ in loaded]
    if len(images) > 1 and any(image.GetDimension() > 3 and image.GetSize()[3] > 1 for image in images):
        raise Failure("a 4D file for one of several channels")
    if len({image.GetSize()[:3] for image in images}) > 1:
        sizes = ", ".join("x".join(map(str, image.GetSize())) for image in images)
        raise Failure(f"its channels differ in size ({sizes} voxels)")
    if len(images) == 1 and item.channels_last:
        yield Volume(0, 1, tuple(split_frames(images[0])), _exact(images, files, notes), notes)
        return
    if len(images) > 1:
        yield Volume(0, 1, tuple(next(split_frames(i)) for i in images), _exact(images, files, notes), notes)
        return
    total = images[0].GetSize()[3] if images[0].GetDimension() == 4 else 1
    chosen = set(pick_frames(total, wanted))
    exact = _exact(images, files, notes)
    for t, frame in enumerate(split_frames(images[0])):
        if t in chosen:
            yield Volume(t, total, (frame,), exact, notes)


def _exact(images: Sequence[sitk.Image], files: tuple[str, ...], notes: tuple[str, ...]) -> tuple[str, ...]:
    """The files themselves, if they are 3D NIfTI files that need no change: 64-bit floating point would be one."""
    plain = not notes and all(file.lower().endswith((".nii", ".nii.gz")) for file in files)
    flat = all(image.GetDimension() == 3 for image in images)
    return files if plain and flat and all(nifti_dtype(Path(file)) != np.float64 for file in files) else ()


def nifti_dtype(path: Path) -> np.dtype:
    """Voxel type on disk of a NIfTI file, in the machine's byte order."""
    return nifti_header(path).get_data_dtype().newbyteorder("=")


def nifti_header(path: Path) -> Nifti1Header:
    """Header of a .nii or .nii.gz file."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as f:
        return read_nifti_header(f.read(544))


def _read_file(path: Path) -> tuple[sitk.Image, list[str]]:
    """A 3D or 4D image of scalars, and notes."""
    notes = []
    angle = (
        shear_angle(nifti_header(path).get_best_affine()) if path.name.lower().endswith((".nii", ".nii.gz")) else 0.0
    )
    if angle > SHEAR_DEGREES:
        notes.append(f"axes are sheared by {angle:.1f} degrees (a tilted gantry?): written with right angles")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" not in str(error):
            raise Failure(f"cannot be read: {_reason(error, path)}") from error
        image = _read_sheared(path)
        notes = notes or ["axes are not exactly at right angles: written with right angles"]
    if "complex" in image.GetPixelIDTypeAsString():
        raise Failure("complex numbers, not an image of intensities")
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = _time_from_components(image, path)
    if image.GetDimension() not in (3, 4):
        raise Failure(f"has {image.GetDimension()} dimensions, 3 or 4 are needed")
    return image, notes


def _time_from_components(image: sitk.Image, path: Path) -> sitk.Image:
    """An NRRD file may list its frames or directions first; anything else with several values per voxel is refused."""
    count = image.GetNumberOfComponentsPerPixel()
    if not (path.suffix.lower() in (".nrrd", ".nhdr") and image.GetDimension() == 3 and is_time_list(path)):
        raise Failure(f"{count} values per voxel (colour or a vector field), not an image of intensities")
    return sitk.JoinSeries([sitk.VectorIndexSelectionCast(image, k) for k in range(count)])


def _read_sheared(path: Path) -> sitk.Image:
    """A NIfTI file that SimpleITK refuses: voxels as they are, axes turned to the nearest right angles."""
    file = nib.load(path)
    voxels = np.asanyarray(file.dataobj)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T), isVector=False)
    rotation, lengths = nearest_rotation(np.diag([-1.0, -1.0, 1.0]) @ file.affine[:3, :3])  # RAS to LPS
    if voxels.ndim == 3:
        image.SetDirection([float(v) for v in rotation.flat])
        image.SetSpacing(list(lengths))
        image.SetOrigin([float(v) for v in file.affine[:3, 3] * (-1, -1, 1)])
        return image
    raise Failure("a 4D file with sheared axes")


def _dicom(item: Item, wanted: int | None) -> Iterator[Volume]:
    assert item.geometry is not None
    for t in pick_frames(len(item.files), wanted):
        if max(item.planes[t]) < 0:
            image = _read_slices(item.files[t], item.whole_numbers)
        else:
            image = _read_planes(item.files[t], item.planes[t])
        image.SetSpacing(item.geometry.spacing)
        image.SetOrigin(item.geometry.origin)
        image.SetDirection(item.geometry.direction)
        yield Volume(t, len(item.files), (smallest_type(without_metadata(image)),))


def _read_slices(files: Sequence[str], whole_numbers: bool) -> sitk.Image:
    """Slices in the given order, slope and intercept of each applied."""
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(list(files))
    # Without this the first slice's slope would decide the type, and the others would be cut to whole numbers.
    reader.SetOutputPixelType(sitk.sitkInt32 if whole_numbers else sitk.sitkFloat32)
    try:
        return reader.Execute()
    except RuntimeError as error:  # the message holds paths
        raise Failure(UNREADABLE) from error


def _read_planes(files: Sequence[str], planes: Sequence[int]) -> sitk.Image:
    """Planes of multi-frame files (or single images among them), in the given order; slope and intercept applied."""
    slices: list[np.ndarray] = []
    name, voxels = "", np.empty(0)
    for file, plane in zip(files, planes):
        if file != name:
            try:
                name, voxels = file, sitk.GetArrayFromImage(sitk.ReadImage(file, imageIO="GDCMImageIO"))
            except RuntimeError as error:
                raise Failure(UNREADABLE) from error
        slices.append(voxels[max(plane, 0)])
    return sitk.GetImageFromArray(np.stack(slices))


def smallest_type(image: sitk.Image) -> sitk.Image:
    """DICOM stores at most 16 bits: back to 16 from the 32 that reading used, where all values fit."""
    if image.GetPixelID() not in (sitk.sitkInt32, sitk.sitkUInt32):
        return image
    low, high = (int(v) for v in sitk.MinimumMaximum(image))
    for pixel_id, least, most in ((sitk.sitkInt16, -(2**15), 2**15 - 1), (sitk.sitkUInt16, 0, 2**16 - 1)):
        if least <= low and high <= most:
            return sitk.Cast(image, pixel_id)
    return image


def _reason(error: Exception, path: Path) -> str:
    """What ITK says, without source files, addresses in memory and paths."""
    text = re.split(r"(?:ITK|itk::|sitk::)\s?ERROR: ", str(error))[-1]
    return " ".join(re.sub(r"\w+\(0x[0-9a-f]+\): ", "", text).replace(str(path), path.name).split())
