"""From DICOM headers to volumes: which images belong together, and which are no volume at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nnssl.data.importing.dicom_geometry import measure, parallel, same_grid, slice_positions, split_frames
from nnssl.data.importing.dicom_headers import Header
from nnssl.data.importing.items import DICOM, Geometry, Item, LeftOut

MIN_SLICES = 3
"""Fewer slice positions are no volume."""

MIN_SLICES_MIXED = 10
"""The same for series that hold several orientations: those of a localiser are a few slices each."""

MODALITIES = {
    "CT": ("ct",),
    "PT": ("pet", "pt", "suv"),
    "MR": ("mr", "t1", "t2", "flair", "pd", "dwi", "adc", "swi", "cine", "bold"),
}
"""DICOM modality -> how names of channels begin that are of this modality."""


def series_to_items(headers: Iterable[Header], channel: str, root: Path) -> tuple[list[Item], list[LeftOut]]:
    """Volumes of all series, in the order of their first file, and what is left out with reasons.

    Args:
        headers: images of any number of series and folders.
        channel: what the pool shall hold (`CT`, `MR`, ...).
        root: paths on the console are relative to it.
    """
    series: dict[str, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: h.path):
        series[header.series].append(header)
    items: list[Item] = []
    left_out: list[LeftOut] = []
    for number, group in enumerate(sorted(series.values(), key=lambda g: g[0].path), start=1):
        one = _Series(f"series {number}", _relative(Path(group[0].path).parent, root), channel)
        one.sort(group)
        items += one.items
        left_out += one.left_out
    return items, left_out


def _relative(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


class _Series:
    """Sorts the images of one series."""

    def __init__(self, where: str, shown: str, channel: str) -> None:
        self.where = where
        self.shown = shown
        self.channel = channel
        self.items: list[Item] = []
        self.left_out: list[LeftOut] = []

    def leave_out(self, headers: Sequence[Header], reason: str) -> None:
        facts = _facts(headers)
        self.left_out.append(LeftOut(DICOM, self.where + facts, self.shown + facts, reason))

    def sort(self, headers: Sequence[Header]) -> None:
        unique = list({(h.instance or h.path, h.number, h.position): h for h in reversed(headers)}.values())[::-1]
        self.copies = len(headers) - len(unique)
        groups: dict[str, list[Header]] = defaultdict(list)
        for header in unique:
            groups[self.reason(header)].append(header)
        for reason, group in groups.items():
            if reason:
                self.leave_out(group, reason)
        good = groups.get("", [])
        self.stacks([plane for h in good for plane in _planes(h)])

    def reason(self, h: Header) -> str:
        """Why this image cannot be part of a volume; empty if it can."""
        wanted = modalities(self.channel)
        if wanted and h.modality and h.modality not in wanted:
            return f"modality {h.modality}, but --channel is {self.channel}"
        if h.colour:
            return "colour images"
        if "LOCALIZER" in h.image_type or "SCOUT" in h.image_type:
            return "a localiser (scout)"
        if any(part.replace("_", " ") in ("SCREEN SAVE", "SCREENSAVE", "DOSE INFO") for part in h.image_type):
            return "a screenshot"
        if h.size[2] > 1:
            if not h.planes:
                return "a multi-frame film without slice positions"
            # GDCM applies one slope to all planes.
            return "a multi-frame file with a slope for each slice" if len({p.rescale for p in h.planes}) > 1 else ""
        if h.position is None or h.axes is None or h.pixel_spacing is None:
            return "no slice position, orientation or pixel spacing: no volume can be made of it"
        return ""

    def stacks(self, headers: Sequence[Header]) -> None:
        """Split by orientation and matrix: every stack is a volume, or several over time."""
        stacks: list[list[Header]] = []
        for h in headers:
            fitting = next((s for s in stacks if same_grid(s[0], h)), None)
            if fitting is None:
                stacks.append([h])
            else:
                fitting.append(h)
        orientations = [s for s in stacks if not parallel(s[0], stacks[0][0])]
        least = MIN_SLICES_MIXED if orientations else MIN_SLICES
        for stack in stacks:
            where = slice_positions(stack)
            places = len(set(where.values()))
            if places < least:
                self.leave_out(stack, _too_few(len(stack), places, len(stacks)))
                continue
            frames, notes = split_frames(stack, where)
            geometry, more = measure(frames[0])
            self.add(frames, geometry, stack, notes + more)

    def add(self, frames: list[list[Header]], geometry: Geometry, stack: list[Header], notes: list[str]) -> None:
        if self.copies:
            notes = [*notes, f"{self.copies} image(s) of the series are there more than once and counted once"]
            self.copies = 0
        whole = all(float(v).is_integer() for h in stack for v in h.rescale)
        part = (f", volume {len(self.items) + 1}" if self.items else "") + _facts(stack)
        self.items.append(
            Item(
                DICOM, tuple(tuple(h.path for h in frame) for frame in frames), self.where + part, self.shown + part,
                subject=stack[0].patient, geometry=geometry, whole_numbers=whole, notes=tuple(notes),
                planes=tuple(tuple(h.plane for h in frame) for frame in frames),
            )
        )  # fmt: skip


def _facts(headers: Sequence[Header]) -> str:
    """What may be said of a series without saying whose it is."""
    size = "x".join(str(n) for n in headers[0].size[:2])
    return f" ({headers[0].modality or 'unknown modality'}, {len(headers)} image(s) of {size})"


def _planes(h: Header) -> list[Header]:
    """A single image as it is; a multi-frame file as one header per plane."""
    return [h] if not h.planes else [
        replace(
            h, size=(*h.size[:2], 1), number=float(k), plane=k, planes=(),
            pixel_spacing=(p.spacing[0], p.spacing[1]), position=(p.position[0], p.position[1], p.position[2]),
            axes=p.axes, rescale=p.rescale,
        )
        for k, p in enumerate(h.planes)
    ]  # fmt: skip


def modalities(channel: str) -> set[str]:
    """DICOM modalities that a channel name allows; empty = no opinion."""
    return {modality for modality, names in MODALITIES.items() if channel.casefold().startswith(names)}


def _too_few(images: int, places: int, stacks: int) -> str:
    if images == 1 and stacks == 1:
        return "a single image"
    if images > places:
        return f"{images} images at only {places} slice position(s): no volume"
    return f"only {images} image(s) of this orientation and size (a localiser?)"
