"""Whole cases as images of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nnssl.errors import MissingError, NnsslError

MOST_VOXELS = 96**3
SPLITS = ("train", "val", "test")


def common_size(shapes: Sequence[Sequence[int]], stride: Sequence[int], most: int = MOST_VOXELS) -> tuple[int, ...]:
    """The median size of images, a multiple of the stride and of two of them at least, shrunk until it is small enough.

    Args:
        shapes: spatial sizes.
        stride: total stride of the encoder.
        most: voxels at the most.
    """
    median = np.median(np.asarray(shapes), axis=0)
    size = [max(2, -(-round(n) // s)) for n, s in zip(median, stride)]
    while np.prod([n * s for n, s in zip(size, stride)]) > most and max(size) > 2:
        largest = max(range(len(size)), key=lambda i: size[i] * stride[i] if size[i] > 2 else 0)
        size[largest] -= 1
    return tuple(n * s for n, s in zip(size, stride))


def fit(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The middle of an image (C, *spatial), cut or padded with zeros to a size."""
    fitted = np.zeros((image.shape[0], *size), np.float32)
    source, target = [slice(None)], [slice(None)]
    for n, wanted in zip(image.shape[1:], size):
        kept = min(n, wanted)
        source.append(slice((n - kept) // 2, (n - kept) // 2 + kept))
        target.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
    fitted[tuple(target)] = image[tuple(source)]
    return fitted


def slices_of(image: np.ndarray, count: int) -> np.ndarray:
    """(C, Z, Y, X) -> (count, C, Y, X): slices at equal distances through the middle half and its surroundings."""
    z = image.shape[1]
    picked = np.linspace(0.1 * (z - 1), 0.9 * (z - 1), count).round().astype(int)
    return np.moveaxis(image[:, picked], 1, 0)


def stack(cases: Sequence[str], read: Callable[[str], np.ndarray], flat: bool, stride: Sequence[int]) -> torch.Tensor:
    """All cases as one tensor.

    Args:
        cases: names.
        read: name -> (C, Z, Y, X).
        flat: for a 2D encoder: (N, S, C, Y, X) with `S` slices of each case; else (N, 1, C, Z, Y, X).
        stride: of the encoder.
    """
    images = [read(c) for c in cases]
    if not flat:
        size = common_size([i.shape[1:] for i in images], stride)
        return torch.from_numpy(np.stack([fit(i, size) for i in images]))[:, None]
    count = int(min(6, np.median([i.shape[1] for i in images])))
    size = common_size([i.shape[2:] for i in images], stride)
    rows = [np.stack([fit(s, size) for s in slices_of(i, count)]) for i in images]
    return torch.from_numpy(np.stack(rows))


def read_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A MedMNIST-style file: split -> images (N, C, *spatial) in [0, 1], then z-scored each, and labels (N,).

    Raises:
        NnsslError: missing, or none of that kind.
    """
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    found = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = set(file.files)
            for split in SPLITS:
                if f"{split}_images" in keys and f"{split}_labels" in keys:
                    labels = np.asarray(file[f"{split}_labels"])
                    found[split] = (np.asarray(file[f"{split}_images"]), labels.reshape(len(labels), -1))
    except ValueError as error:
        raise NnsslError(f"{path} is no npz file that can be read without pickle") from error
    if not {"train", "test"} <= set(found):
        raise NnsslError(
            f"{path} lacks train_images, train_labels, test_images or test_labels; it has {', '.join(sorted(keys))}"
        )
    for split, (images, labels) in found.items():
        if labels.shape[1] != 1:
            raise NnsslError(f"{path}: {split}_labels has {labels.shape[1]} columns; one label per image is needed")
        if len(images) != len(labels):
            raise NnsslError(f"{path}: {len(images)} {split}_images and {len(labels)} {split}_labels")
    return {split: (_channels_first(images, path), labels[:, 0]) for split, (images, labels) in found.items()}


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    """(N, Y, X), (N, Y, X, C <= 4) or (N, Z, Y, X) -> (N, C, *spatial), z-scored per image."""
    if images.ndim not in (3, 4, 5):
        raise NnsslError(f"{path}: images of shape {images.shape[1:]}; (Y, X), (Y, X, C) and (Z, Y, X) are known")
    values = images.astype(np.float32)
    if (values.ndim == 4 and values.shape[-1] <= 4) or values.ndim == 5:
        values = np.moveaxis(values, -1, 1)
    else:
        values = values[:, None]
    axes = tuple(range(1, values.ndim))
    return (values - values.mean(axes, keepdims=True)) / np.maximum(values.std(axes, keepdims=True), 1e-6)
