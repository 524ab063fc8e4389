"""preview.png: what the network saw and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nnssl.files import atomic_path
from nnssl.methods import CropBatch


def save_preview(
    path: Path, pictures: Mapping[str, torch.Tensor], crops: CropBatch, title: str, make_folder: bool = True
) -> None:
    """Draw one row per sample and one column per picture.

    3D pictures show a slice (first axis): of a picture as deep as the crop that was read, the one in the middle of the
    image; else the one in the middle. All columns of a row share the grey scale of the first one; NaN (hidden) is drawn
    in colour.

    Args:
        path: PNG to write.
        pictures: name -> (B, C, *spatial); the first channel is shown.
        crops: what the pictures were made from.
        title: line above the picture.
        make_folder: make its folder if it is missing.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    depth, middles = crops.images.shape[2], (crops.inside[:, 0].sum(dim=1) // 2).tolist()
    images = {name: _middle_slices(p.float().cpu().numpy()[:, 0], depth, middles) for name, p in pictures.items()}
    rows = min(4, len(next(iter(images.values()))))
    figure, axes = plt.subplots(
        rows, len(images), figsize=(3 * len(images), 3.1 * rows + 0.5), squeeze=False, layout="constrained"
    )
    greys = plt.get_cmap("gray").with_extremes(bad="#31688e")
    for r in range(rows):
        reference = next(iter(images.values()))[r]
        low, high = np.nanpercentile(reference, (1, 99))
        for axis, (name, stack) in zip(axes[r], images.items()):
            axis.imshow(stack[r], cmap=greys, vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axis.set_axis_off()
            if r == 0:
                axis.set_title(name, fontsize=11)
    figure.suptitle(title, fontsize=11)
    try:
        with atomic_path(path, make_folder) as temporary:
            figure.savefig(temporary, dpi=90)
    finally:
        plt.close(figure)


def _middle_slices(images: np.ndarray, depth: int, middles: Sequence[int]) -> list[np.ndarray]:
    """(B, *spatial) -> B pictures (rows, columns)."""
    if images.ndim == 3:
        return list(images)
    if images.shape[1] != depth:
        return [image[len(image) // 2] for image in images]
    return [image[min(m, depth - 1)] for image, m in zip(images, middles)]
