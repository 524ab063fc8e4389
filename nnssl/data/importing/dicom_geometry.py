"""How DICOM images lie to each other: one grid or several, one volume or several over time, even, tilted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from nnssl.data.importing.dicom_headers import FRAME_TAGS, Header
from nnssl.data.importing.items import Geometry

UNEVEN = 0.02
"""Slice steps may differ by this share of the usual step (and 0.02 mm): positions are rounded text."""

TILT_DEGREES = 0.5
"""Slices that are shifted against each other by more than this are reported as a gantry tilt."""


def same_grid(a: Header, b: Header) -> bool:
    """Same matrix, pixel spacing and orientation, but for rounding."""
    assert a.axes is not None and b.axes is not None
    assert a.pixel_spacing is not None and b.pixel_spacing is not None
    return a.size == b.size and bool(
        np.allclose(a.axes, b.axes, atol=0.005) and np.allclose(a.pixel_spacing, b.pixel_spacing, rtol=0.001)
    )


def parallel(a: Header, b: Header) -> bool:
    return abs(float(np.dot(_normal(a), _normal(b)))) > 0.99


def _normal(header: Header) -> np.ndarray:
    assert header.axes is not None
    row, column = np.array(header.axes[:3]), np.array(header.axes[3:])
    normal = np.cross(row, column)
    return normal / max(float(np.linalg.norm(normal)), 1e-12)


def slice_positions(stack: Sequence[Header]) -> dict[tuple[str, int], float]:
    """Image -> position along the slices' normal, mm; positions within 0.01 mm are the same."""
    normal = _normal(stack[0])
    along = {h.key: float(np.dot(normal, np.array(h.position))) for h in stack}
    same: dict[tuple[str, int], float] = {}
    last = None
    for key, value in sorted(along.items(), key=lambda pair: pair[1]):
        last = value if last is None or value - last > 0.01 else last
        same[key] = last
    return same


def split_frames(stack: Sequence[Header], where: dict[tuple[str, int], float]) -> tuple[list[list[Header]], list[str]]:
    """Volumes that lie at the same place (time points, echoes, magnitude and phase), each sorted along the normal.

    Args:
        stack: images of one orientation and matrix.
        where: as `slice_positions`.

    Returns:
        Frames, and notes.
    """
    places = set(where.values())

    def ordered(frame: Iterable[Header]) -> list[Header]:
        return sorted(frame, key=lambda h: where[h.key])

    def split(images: Sequence[Header], tags: Sequence[str]) -> list[list[Header]] | None:
        if len(images) == len({where[h.key] for h in images}):
            return [ordered(images)]
        for i, tag in enumerate(tags):
            groups: dict[str, list[Header]] = defaultdict(list)
            for h in images:
                groups[h.marks.get(tag, "")].append(h)
            if len(groups) > 1 and all({where[h.key] for h in g} == places for g in groups.values()):
                parts = [split(groups[value], tags[i + 1 :]) for value in sorted(groups, key=_as_number)]
                return None if any(p is None for p in parts) else [f for p in parts if p for f in p]
        return None

    frames = split(stack, list(FRAME_TAGS))
    notes: list[str] = []
    if frames is None:
        frames, notes = _by_turns(stack, where)
    if len(frames) > 1:
        notes.append(f"{len(frames)} volumes at the same place in one series")
    return frames, notes


def _by_turns(stack: Sequence[Header], where: dict[tuple[str, int], float]) -> tuple[list[list[Header]], list[str]]:
    """No tag tells the volumes apart: the first image at each place is one volume, the second the next."""
    turns: dict[float, list[Header]] = defaultdict(list)
    for h in sorted(stack, key=lambda h: (h.number, h.path)):
        turns[where[h.key]].append(h)
    complete = min(len(images) for images in turns.values())
    frames = [[turns[place][k] for place in sorted(turns)] for k in range(complete)]
    lost = len(stack) - complete * len(turns)
    return frames, [f"{lost} image(s) repeat slice positions and belong to no complete volume"] if lost else []


def _as_number(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def measure(slices: Sequence[Header]) -> tuple[Geometry, list[str]]:
    """Spacing, origin and direction of slices sorted along their normal, and notes on uneven steps and tilt.

    The slice spacing is the distance between the slices' planes (the usual one where it is uneven), never
    SliceThickness.
    """
    first = slices[0]
    assert first.axes is not None
    assert first.pixel_spacing is not None
    positions = np.array([h.position for h in slices], dtype=float)
    normal = _normal(first)
    along = positions @ normal
    steps = np.diff(along)
    step = float(np.median(steps))
    notes = []
    if np.abs(steps - step).max() > max(0.02, UNEVEN * step):
        missing = round(float((along[-1] - along[0]) / step)) + 1 - len(slices)
        lack = f"; {missing} slice(s) seem to be missing" if missing > 0 else ""
        notes.append(
            f"uneven slice spacing: steps from {steps.min():.3g} to {steps.max():.3g} mm, taken as {step:.3g} mm{lack}"
        )
    shift = positions[-1] - positions[0]
    angle = float(np.degrees(np.arccos(np.clip((along[-1] - along[0]) / np.linalg.norm(shift), -1.0, 1.0))))
    if angle > TILT_DEGREES:
        notes.append(
            f"gantry tilt of {angle:.1f} degrees: slices are stacked straight, so the body is sheared by that angle"
        )
    row, column = np.array(first.axes[:3]), np.array(first.axes[3:])
    column = np.cross(normal, row)
    direction = np.stack([row / np.linalg.norm(row), column / np.linalg.norm(column), normal], axis=1)
    origin = tuple(float(v) for v in positions[0])
    y, x = first.pixel_spacing
    return Geometry((x, y, step), (origin[0], origin[1], origin[2]), tuple(float(v) for v in direction.flat)), notes
