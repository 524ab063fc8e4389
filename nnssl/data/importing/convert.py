"""What a worker does with one item: read it, check it, write its volumes under temporary names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnssl.data.images import check_file, read_case, voxel_digest
from nnssl.data.importing.items import DICOM, META, NIFTI, NRRD, Converted, Item, Written
from nnssl.data.importing.label_maps import label_values
from nnssl.data.importing.nifti_copy import copy_nifti
from nnssl.data.importing.orientation import KEEP, orient, orientation
from nnssl.data.importing.volumes import Volume, load_volumes, nifti_dtype
from nnssl.data.nifti import check_nifti
from nnssl.data.parallel import Failure, one_line

ENDING = ".nii.gz"
CANNOT_WRITE = "its copy cannot be written"
"""How the reason begins when the disk is full: that is no reason to leave an image out."""


@dataclass(frozen=True)
class Wish:
    """How items are written.

    Attributes:
        folder: where the files go, under temporary names.
        channels: names of the pool's channels.
        orientation: `keep`, or three letters.
        frames: of a time series; None = all.
        link: link files that need no change.
        include_labels: take label maps for images.
    """

    folder: str
    channels: tuple[str, ...]
    orientation: str = KEEP
    frames: int | None = None
    link: bool = False
    include_labels: bool = False


class CannotWriteError(Exception):
    """Not the image is at fault, but the place where it goes to: a full disk, a quota."""


class _InMemory:
    """What `read_case` calls a reader, for images that are read already."""

    def __init__(self, images: tuple[sitk.Image, ...]) -> None:
        self.images = images

    def read_images(self, files: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        data = np.stack([sitk.GetArrayViewFromImage(i).astype(np.float32) for i in self.images])
        return data, {"spacing": self.images[0].GetSpacing()[::-1]}


def convert(numbered: tuple[int, Item], *, wish: Wish) -> Converted:
    """Read, check and write all volumes of an item.

    Args:
        numbered: the item's position among all (for the temporary names), and the item.
        wish: how.

    Raises:
        Failure: nothing of it can be used; the message names no path.
    """
    number, item = numbered
    written: list[Written] = []
    failed: list[tuple[int, str]] = []
    try:
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings name paths; the report says it better
        if item.kind != DICOM:
            for file in item.files[0]:
                check_file(Path(file))
        for volume in load_volumes(item, wish.frames):
            try:
                written.append(_one(f"{number:07d}_{volume.frame:05d}", item, volume, wish))
            except Failure as error:
                if volume.frames == 1:
                    raise
                failed.append((volume.frame, str(error)))
    except CannotWriteError as error:
        raise Failure(f"{CANNOT_WRITE} ({error})") from error
    except Exception as error:  # whatever a library throws at a broken file; its message must not carry a path out
        raise Failure(_without_paths(one_line(error), item)) from error
    if not written and failed:
        raise Failure(f"none of its {len(failed)} frames is usable; the first: {failed[0][1]}")
    return Converted(tuple(written), tuple(failed))


def _without_paths(text: str, item: Item) -> str:
    for file in dict.fromkeys(f for frame in item.files for f in frame):
        path = Path(file)
        text = text.replace(str(path), "a slice" if item.kind == DICOM else path.name)
        text = text.replace(f"{path.parent}/", "")
    return text


def _one(stem: str, item: Item, volume: Volume, wish: Wish) -> Written:
    images = tuple(orient(_trainable(image), wish.orientation) for image in volume.images)
    data, _ = read_case(item.files[0], _InMemory(images), len(wish.channels))
    if item.kind in (NIFTI, NRRD, META) and not wish.include_labels and (values := label_values(data[0])):
        raise Failure(f"looks like a label map, not an image ({values} different values)")
    notes = [*item.notes, *volume.notes]
    for name, channel in zip(wish.channels, data):
        if name.casefold() == "ct" and float(channel.min()) >= 0:
            notes.append(f"no value below 0 (largest {float(channel.max()):g}): hardly CT in Hounsfield units")
    exact = bool(volume.as_is) and all(_same(a, b) for a, b in zip(images, volume.images))
    files, linked = _write(stem, images, volume.as_is if exact else (), wish)
    return Written(
        volume.frame, volume.frames, tuple(files), linked, tuple(data.shape[1:]),
        tuple(float(s) for s in images[0].GetSpacing()[::-1]), orientation(images[0]),
        _dtype(images[0], volume, exact), voxel_digest(data), tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _trainable(image: sitk.Image) -> sitk.Image:
    """Whole numbers stay as they are on disk; 64-bit floating point becomes 32-bit."""
    return sitk.Cast(image, sitk.sitkFloat32) if image.GetPixelID() == sitk.sitkFloat64 else image


def _same(image: sitk.Image, before: sitk.Image) -> bool:
    """Nothing but a scale factor in the file's header stands between the file and the image."""
    return image.GetDirection() == before.GetDirection() and image.GetSize() == before.GetSize()


def _write(stem: str, images: tuple[sitk.Image, ...], as_is: tuple[str, ...], wish: Wish) -> tuple[list[str], bool]:
    """One file per channel: linked or copied from `as_is` where that is given. Returns the files, and whether linked."""
    files, linked = [], False
    try:
        for c, image in enumerate(images):
            target = Path(wish.folder) / f"{stem}_{c:04d}{ENDING}"
            if as_is and wish.link and as_is[c].endswith(ENDING):
                target.symlink_to(Path(as_is[c]).absolute())
                linked = True
            elif as_is:
                copy_nifti(Path(as_is[c]), target)
            else:
                sitk.WriteImage(image, str(target), useCompression=True, compressionLevel=3)
                check_nifti(target)  # ITK does not notice a full disk
            files.append(str(target))
    except (OSError, RuntimeError, Failure) as error:
        raise CannotWriteError(
            str(getattr(error, "strerror", None) or "what was written cannot be read again")
        ) from error
    return files, linked


def _dtype(image: sitk.Image, volume: Volume, exact: bool) -> str:
    """Voxel type of the file that was written."""
    if exact:
        return str(nifti_dtype(Path(volume.as_is[0])))
    return str(sitk.GetArrayViewFromImage(image).dtype)
