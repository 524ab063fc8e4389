"""What the parts of an import hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

DICOM = "DICOM"
NIFTI = "NIfTI"
NRRD = "NRRD"
META = "MetaImage"
NNUNET = "nnU-Net"
MSD = "Decathlon"


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a DICOM volume lie: x, y, z order, mm, DICOM's patient coordinates (LPS)."""

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]  # row-major 3 x 3


@dataclass(frozen=True)
class Item:
    """One thing found on disk that holds an image, or several over time.

    Attributes:
        kind: `DICOM`, `NIfTI`, ...
        files: DICOM: the slices of each frame, in order; otherwise one entry with one file per channel.
        where: how the report names it: a relative path, or for DICOM `series 3`. Never a patient's name.
        shown: how the console names it; may be a path.
        name: the case name it brings along, empty where cases are numbered.
        subject: what tells persons apart, in memory only (for DICOM the PatientID); empty if not known.
        subject_name: the subject's name if it may be kept (nnU-Net datasets); otherwise subjects are numbered.
        dataset: folder of the dataset that it is part of; empty for loose files and DICOM.
        channels_last: a fourth axis holds channels, not time.
        geometry: of a DICOM volume.
        planes: DICOM: for each of `files` which plane of the file it is; -1 for a file of one image.
        whole_numbers: DICOM: slope and intercept leave whole numbers.
        notes: what is worth reporting although it is taken.
    """

    kind: str
    files: tuple[tuple[str, ...], ...]
    where: str
    shown: str
    name: str = ""
    subject: str = ""
    subject_name: str = ""
    dataset: str = ""
    channels_last: bool = False
    geometry: Geometry | None = None
    planes: tuple[tuple[int, ...], ...] = ()
    whole_numbers: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """Something that was found and not taken."""

    kind: str
    where: str
    shown: str
    reason: str


@dataclass
class Found:
    """What the sources hold before any voxel is read.

    Attributes:
        items: in the order in which cases are numbered.
        left_out: with reasons.
        other_files: number of files that are no images, by ending.
        channel_names: source -> its channel names, for nnU-Net datasets and Decathlon tasks.
        notes: about the sources as a whole.
    """

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    other_files: dict[str, int] = field(default_factory=dict)
    channel_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """One volume that a worker wrote under a temporary name.

    `shape` (Z, Y, X) voxels, `spacing` (Z, Y, X) mm, `dtype` of the file, `digest` as `nnssl.data.images.voxel_digest`.
    """

    frame: int
    frames: int
    files: tuple[str, ...]
    linked: bool
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    dtype: str
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """What became of one item: volumes, and reasons for frames that were given up."""

    written: tuple[Written, ...]
    failed: tuple[tuple[int, str], ...] = ()
