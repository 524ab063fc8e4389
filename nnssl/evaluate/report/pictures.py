"""Cases as pictures: image, reference, and what each initialisation made of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.folders import nnunet_folder, raw_cases, read_dataset_json, read_plans
from nnssl.errors import NnsslError
from nnssl.evaluate.report.collect import Study

MARGIN_MM = 25.0
"""Kept around the reference's box."""
LABEL_COLOURS = ("#e6550d", "#1f9ed1", "#31a354", "#d6336c", "#fdd835", "#7b5ea7", "#00bfa5", "#795548")
WORST, BEST = 2, 1


@dataclass(frozen=True)
class Picture:
    """One case.

    Attributes:
        title: which and why.
        png: the row of panels.
    """

    title: str
    png: bytes


def case_pictures(study: Study, metric: str) -> list[Picture]:
    """Where the initialisations do worst and best, and where they differ most, at the smallest count and first draw.

    Empty when the raw images are not at hand.
    """
    count = min(study.config.counts)
    seed = next(
        (s for s in study.config.seeds if any(c.cell.seed == s for c in study.of(study.config.control, count))), None
    )
    cells = {i: next((c for c in study.of(i, count) if c.cell.seed == seed), None) for i in study.inits}
    shown = {i: c for i, c in cells.items() if c is not None}
    if not shown:
        return []
    try:
        raw = _raw_images(study)
    except NnsslError:  # a report can be made where the images are not
        return []
    table = np.stack([np.nanmean(c.scores[metric], axis=1) for c in shown.values()])
    worst_first = table if study.measures.larger_is_better(metric) else -table
    order = [i for i in np.argsort(np.nanmean(worst_first, axis=0)) if np.isfinite(table[:, i]).all()]
    apart = max(order, key=lambda i: float(np.ptp(table[:, i])), default=None)
    chosen = dict.fromkeys(order[:WORST], "the worst on average") | dict.fromkeys(order[-BEST:], "the best on average")
    if apart is not None:
        chosen.setdefault(apart, "where they differ most")
    pictures = []
    for index, why in chosen.items():
        case = study.config.test[index]
        folders = {name: c.cell.folder(study.folder) / "predictions" for name, c in shown.items()}
        scores = dict(zip(shown, (float(v) for v in table[:, index])))
        png = draw_case(study, case, raw[case], folders, scores)
        if png:
            pictures.append(
                Picture(f"test case {index + 1} of {len(study.config.test)}, {why}; {count} labels, draw {seed}", png)
            )
    return pictures


def _raw_images(study: Study) -> dict[str, Path]:
    """Case -> its first channel."""
    folder = nnunet_folder("nnUNet_raw") / study.config.dataset
    found = {c.name: Path(c.images[0]) for c in raw_cases(folder, read_dataset_json(folder / "dataset.json"))}
    missing = [c for c in study.config.test if c not in found]
    if missing:
        raise NnsslError(f"{missing[0]} is not in {folder}")
    return found


def draw_case(
    study: Study, case: str, image_file: Path, folders: dict[str, Path], scores: dict[str, float]
) -> bytes | None:
    """A row of panels through the slice in which the reference is largest; None where a file is missing."""
    preprocessed = nnunet_folder("nnUNet_preprocessed") / study.config.dataset
    ending = read_dataset_json(preprocessed / "dataset.json")["file_ending"]
    plans = read_plans(study.config.dataset, study.config.plans)
    reader = _reader(plans["image_reader_writer"])
    reference_file = preprocessed / "gt_segmentations" / f"{case}{ending}"
    files = {name: folder / f"{case}{ending}" for name, folder in folders.items()}
    if not all(f.is_file() for f in (reference_file, *files.values())):
        return None
    image, properties = reader.read_images([str(image_file)])
    reference = reader.read_seg(str(reference_file))[0][0]
    answers = {name: reader.read_seg(str(file))[0][0] for name, file in files.items()}
    box = _slice_and_box(reference, [float(s) for s in properties["spacing"]])
    aspect = float(properties["spacing"][-2]) / float(properties["spacing"][-1])
    panels = [("image", image[0][box], None), ("reference", image[0][box], reference[box])]
    panels += [(f"{name} {scores[name]:.2f}", image[0][box], answer[box]) for name, answer in answers.items()]
    return _png(panels, aspect)


def _reader(name: str) -> Any:
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    return recursive_find_reader_writer_by_name(name)()


def _slice_and_box(reference: np.ndarray, spacing: list[float]) -> tuple[Any, ...]:
    """Index of the slice with the largest reference, and the box around it with a margin."""
    area = (reference > 0).sum((1, 2))
    z = int(area.argmax())
    edges: list[slice] = []
    for axis, n in enumerate(reference.shape[1:]):
        hit = np.flatnonzero((reference[z] > 0).any(1 - axis))
        margin = round(MARGIN_MM / spacing[1 + axis])
        low, high = (int(hit[0]), int(hit[-1])) if len(hit) else (0, n - 1)
        edges.append(slice(max(0, low - margin), min(n, high + margin + 1)))
    return (z, *edges)


def _png(panels: list[tuple[str, np.ndarray, np.ndarray | None]], aspect: float) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    columns = min(6, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.9 * columns, 2.15 * rows), layout="constrained", squeeze=False
    )
    low, high = np.percentile(panels[0][1], (1, 99))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, image, label) in zip(axes.flat, panels):
        axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect, interpolation="nearest")
        for value in np.unique(label)[1:] if label is not None else ():
            colour = LABEL_COLOURS[(int(value) - 1) % len(LABEL_COLOURS)]
            axis.contour(label == value, levels=[0.5], colors=[colour], linewidths=1.2)
        axis.set_title(title, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()
