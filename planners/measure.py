"""What is measured of one case for the fingerprint, and the piece of file that keeps it until all cases are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnssl.planners.labels import check_label

from nnssl.data.body import body_mask
from nnssl.data.folders import RawCase
from nnssl.data.headers import read_header
from nnssl.data.hounsfield import explain_not_hounsfield, hu_histogram
from nnssl.data.images import read_case, voxel_digest
from nnssl.data.npz_files import load_npz
from nnssl.errors import NnsslError
from nnssl.files import atomic_path

# nnU-Net draws 100 million intensities over the whole dataset, so 16 million from each of six cases; percentiles settle
# far earlier.
TOTAL_SAMPLES = 1e8
CASE_SAMPLES = 200_000


@dataclass(frozen=True)
class CaseFacts:
    """Facts of one case that fit on a few lines.

    Attributes:
        shape: (Z, Y, X) voxels of the raw image.
        shape_after_crop: the same after nnU-Net's crop to the region that is not zero.
        spacing: (Z, Y, X) in mm.
        dtype: voxel type on disk, None where the header does not tell.
        orientation: three letters, see `nnssl.data.headers`; None where the format has none.
        foreground_share: share of the voxels inside the body mask.
        intensity: per channel: min, percentile_00_5, median, percentile_99_5, max, mean, std inside the body mask.
        digest: of the voxels.
        not_hounsfield: why a CT channel does not hold Hounsfield units; empty when it does, or there is none.
        misplaced: how the label's geometry differs from the image's; empty when it does not, or there is no label.
    """

    shape: tuple[int, ...]
    shape_after_crop: tuple[int, ...]
    spacing: tuple[float, ...]
    dtype: str | None
    orientation: str | None
    foreground_share: float
    intensity: list[dict[str, float]]
    digest: str
    not_hounsfield: str = ""
    misplaced: str = ""


@dataclass(frozen=True)
class Measurement:
    """All that one case contributes to the fingerprint.

    Attributes:
        facts: see there.
        foreground: (C, samples) intensities drawn from the foreground: labels where there are classes, else the body.
        histograms: channel -> histogram of body voxels, of CT channels only; see `nnssl.data.hounsfield`.
    """

    facts: CaseFacts
    foreground: np.ndarray
    histograms: dict[int, np.ndarray] = field(default_factory=dict)

    def save(self, path: Path, key: str) -> None:
        """Write atomically; `key` says what it was measured from."""
        arrays: dict[str, Any] = {f"histogram_{c}": h for c, h in self.histograms.items()}
        text = json.dumps({"key": key, "facts": asdict(self.facts)})
        with atomic_path(path) as temporary, temporary.open("wb") as f:
            np.savez(f, foreground=self.foreground, about=np.array(text), **arrays)

    @classmethod
    def load(cls, path: Path, key: str) -> Measurement | None:
        """Read a piece; None when there is none, it is damaged, or it was measured from something else."""
        if not path.is_file():
            return None
        try:
            content = load_npz(path)
            about = json.loads(str(content["about"]))
            if about["key"] != key:
                return None
            histograms = {
                int(n.removeprefix("histogram_")): v for n, v in content.items() if n.startswith("histogram_")
            }
            return cls(_facts(about["facts"]), content["foreground"], histograms)
        except (OSError, ValueError, KeyError, TypeError, IndexError):  # half-written by a full disk: measure again
            return None


def _facts(values: dict[str, Any]) -> CaseFacts:
    facts = CaseFacts(**values)
    return replace(
        facts, shape=tuple(facts.shape), shape_after_crop=tuple(facts.shape_after_crop), spacing=tuple(facts.spacing)
    )


def samples_per_case(cases: int) -> int:
    """Intensities drawn from each of so many cases."""
    return max(1, min(CASE_SAMPLES, int(TOTAL_SAMPLES // cases)))


def measure_case(
    case: RawCase, *, reader: type, channel_names: Sequence[str], samples: int, named: frozenset[int] | None
) -> Measurement:
    """Measure one case; raises Failure (or a reader's own error) when it is not usable.

    Args:
        case: raw files.
        reader: nnU-Net's reader class.
        channel_names: as in dataset.json.
        samples: intensities to draw.
        named: label values that dataset.json names; None where it has no classes, so that labels say nothing.
    """
    data, properties = read_case(case.images, reader(), len(channel_names), check_files=True)
    headers = [read_header(file) for file in case.images]
    body = body_mask(data, channel_names, properties["spacing"])
    foreground, misplaced = body, ""
    if case.label and named is not None:
        seg, label_properties = reader().read_seg(case.label)
        misplaced = check_label(seg, label_properties, data.shape[1:], properties, named)
        foreground = seg[0] > 0
    box = nonzero_box(data)
    rng = np.random.RandomState(1234)  # nnU-Net's seed
    picked = [_draw(channel[box][foreground[box]], samples, rng) for channel in data]
    of_body = picked if foreground is body else [_draw(channel[body], samples, rng) for channel in data]
    ct = [c for c, name in enumerate(channel_names) if name.casefold() == "ct"]
    # one file may hold all channels
    troubles = [explain_not_hounsfield(data[c], headers[min(c, len(headers) - 1)].dtype) for c in ct]
    facts = CaseFacts(
        shape=tuple(int(n) for n in data.shape[1:]),
        shape_after_crop=tuple(int(b.stop - b.start) for b in box),
        spacing=tuple(float(s) for s in properties["spacing"]),
        dtype=headers[0].dtype,
        orientation=headers[0].orientation,
        foreground_share=float(body.mean()),
        intensity=[statistics(values) for values in of_body],
        digest=voxel_digest(data),
        not_hounsfield=next((t for t in troubles if t), ""),
        misplaced=misplaced,
    )
    # a case in other units keeps its place among the cases, but not in the pool's distribution of HU
    nothing = of_body[0][:0]
    histograms = {c: hu_histogram(nothing if trouble else of_body[c]) for c, trouble in zip(ct, troubles)}
    return Measurement(facts, np.stack(picked), histograms)


def nonzero_box(data: np.ndarray) -> tuple[slice, ...]:
    """Box to which nnU-Net crops (C, Z, Y, X).

    nnU-Net fills the holes of the non-zero region first; that takes seconds for a chest CT and cannot move its box.
    """
    nonzero = (data != 0).any(axis=0)
    box = []
    for axis in range(nonzero.ndim):
        there = np.flatnonzero(nonzero.any(axis=tuple(a for a in range(nonzero.ndim) if a != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)


def _draw(values: np.ndarray, samples: int, rng: np.random.RandomState) -> np.ndarray:
    """Sample intensities with replacement as nnU-Net does, so that every case counts the same; none from no voxels."""
    return rng.choice(values, samples, replace=True) if values.size else np.empty(0, np.float32)


def statistics(values: np.ndarray) -> dict[str, float]:
    """nnU-Net's intensity properties of one channel."""
    if values.size == 0:
        raise NnsslError("no foreground voxels in the whole dataset: are the label files empty?")
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
