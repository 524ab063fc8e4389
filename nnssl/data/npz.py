"""Images in MedMNIST-style npz files: which axes are what."""

from __future__ import annotations

import numpy as np

SPLITS = ("train", "val", "test")
MOST_CHANNELS = 4
"""A last axis no longer than this holds colours."""


def is_colour(images: np.ndarray) -> bool:
    """Whether the last axis of (N, Y, X, C) or (N, Z, Y, X, C) holds colours."""
    return images.ndim in (4, 5) and images.shape[-1] <= MOST_CHANNELS


def as_volumes(images: np.ndarray) -> np.ndarray:
    """(N, Y, X), (N, Y, X, C), (N, Z, Y, X) or (N, Z, Y, X, C) -> (N, C, Z, Y, X), a view with Z = 1 for 2D images."""
    images = np.moveaxis(images, -1, 1) if is_colour(images) else images[:, None]
    return images[:, :, None] if images.ndim == 4 else images
