"""preview.png: what the network saw and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from nnssl.files import atomic_path


def save_preview(path: Path, pictures: Mapping[str, torch.Tensor], inside: torch.Tensor, title: str) -> None:
    """Draw one row per sample and one column per picture.

    3D pictures show the slice (first axis) in the middle of the image's part of the crop. All columns of a row share the
    grey scale of the first one; NaN (hidden) is drawn in colour.

    Args:
        path: PNG to write.
        pictures: name -> (B, C, *spatial); the first channel is shown.
        inside: (B, dim, 2), see CropBatch.
        title: line above the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    images = {name: _middle_slices(p.float().cpu().numpy()[:, 0], inside.cpu().numpy()) for name, p in pictures.items()}
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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)


def _middle_slices(images: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """(B, *spatial) -> B pictures (rows, columns)."""
    if images.ndim == 3:
        return list(images)
    middles = [int(np.clip(box[0].sum() // 2, 0, images.shape[1] - 1)) for box in inside]
    return [image[m] for image, m in zip(images, middles)]
