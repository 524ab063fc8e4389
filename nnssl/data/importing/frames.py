"""Time series: a 4D image is a pile of 3D ones."""

from __future__ import annotations

from collections.abc import Iterator

import SimpleITK as sitk


def split_frames(image: sitk.Image) -> Iterator[sitk.Image]:
    """3D frames of a 4D image, in order of time, with its voxel type, spacing (mm), origin and direction.

    Args:
        image: (x, y, z) or (x, y, z, t); a 3D image is its own only frame. Metadata are not carried over.
    """
    if image.GetDimension() == 3:
        yield without_metadata(image)
        return
    size = [*image.GetSize()[:3], 0]
    for t in range(image.GetSize()[3]):
        yield without_metadata(
            sitk.Extract(image, size, [0, 0, 0, t], sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOSUBMATRIX)
        )


def without_metadata(image: sitk.Image) -> sitk.Image:
    """The image without its metadata: header fields of a scanner or an archive may name the patient."""
    keys = image.GetMetaDataKeys()
    if not all(key.isascii() for key in keys):  # SimpleITK cannot erase names that are not UTF-8
        plain = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image))
        plain.CopyInformation(image)
        return plain
    for key in keys:
        image.EraseMetaData(key)
    return image
