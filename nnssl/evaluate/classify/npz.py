"""MedMNIST-style files: images and labels, split into training, validation and test images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnssl.data.images import voxel_digest
from nnssl.data.npz import SPLITS, as_volumes, is_colour
from nnssl.data.npz_files import load_npz
from nnssl.data.parallel import Failure
from nnssl.data.spacing import crop_spacing
from nnssl.errors import NnsslError, shortened
from nnssl.evaluate.classify.data import Labelled, Source
from nnssl.evaluate.classify.recipe import Recipe, make_recipe

Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The images and labels of a file, as stored.

    Raises:
        NnsslError: missing, damaged, or none that can be read without pickle.
    """
    return load_npz(path, lambda key: key.endswith(("images", "labels")))


def read_npz(path: Path) -> Splits:
    """A MedMNIST-style file: split -> images (N, C, Z, Y, X) as stored, and labels (N,) as texts.

    Raises:
        NnsslError: missing, or none of that kind.
    """
    arrays = read_arrays(path)
    found: Splits = {}
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is not None and labels is not None:
            found[split] = (
                images,
                labels.reshape(len(labels), math.prod(labels.shape[1:])) if labels.ndim else labels[None, None],
            )
    if not {"train", "test"} <= set(found):
        raise NnsslError(
            f"{path} lacks train_images, train_labels, test_images or test_labels; it has {shortened(sorted(arrays), 20)}"
        )
    for split, (images, labels) in found.items():
        _check(path, split, images, labels)
    return {split: (as_volumes(images), labels[:, 0].astype(str)) for split, (images, labels) in found.items()}


def _check(path: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    check_images(path, f"{split}_images", images)
    if labels.shape[1] != 1:
        raise NnsslError(f"{path}: {split}_labels has {labels.shape[1]} columns; one label per image is needed")
    if len(images) != len(labels):
        raise NnsslError(f"{path}: {len(images)} {split}_images and {len(labels)} {split}_labels")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise NnsslError(f"{path}: {split}_labels holds NaN: every image needs a label")


def check_images(path: Path, key: str, images: np.ndarray) -> None:
    """Refuse what is no stack of images.

    Raises:
        NnsslError: another shape, no image, or no numbers.
    """
    if images.ndim not in (3, 4, 5) or (images.ndim == 5 and not is_colour(images)):
        raise NnsslError(
            f"{path}: {key} of shape {images.shape[1:]}; (Y, X), (Y, X, C), (Z, Y, X), (Z, Y, X, C) are known"
        )
    if images.size == 0:
        raise NnsslError(f"{path}: {key} is empty")
    if images.dtype.kind not in "uifb":
        raise NnsslError(f"{path}: {key} holds no numbers but {images.dtype}")


class NpzImages(Source):
    """The images of a MedMNIST-style file; named by split and position, `train_0`, `train_1`, ...

    Such files say nothing of spacing: it is taken for the plans' own, and so is the order of axes.

    Args:
        path: the file.
        plans, configuration, dataset_json: that say how images are preprocessed.

    Raises:
        NnsslError: the file cannot be used, or its images are not what the configuration is for.
    """

    def __init__(self, path: Path, plans: dict[str, Any], configuration: str, dataset_json: Mapping[str, Any]) -> None:
        self.path, self.splits = path, read_npz(path)
        self.place = {f"{s}_{i}": (s, i) for s, (_, labels) in self.splits.items() for i in range(len(labels))}
        names = tuple(self.place)
        values = np.concatenate([labels for _, labels in self.splits.values()])
        digests = {n: voxel_digest(self.splits[s][0][i].astype(np.float32)) for n, (s, i) in self.place.items()}
        super().__init__(
            untransposed(plans), configuration, dataset_json, Labelled(names, values, names, "classes", digests)
        )
        check_fits(path, self.splits["train"][0], self.plans, configuration, len(dataset_json["channel_names"]))

    def names(self, split: str) -> list[str]:
        """Of the images of a split; none where the file lacks it."""
        return [name for name, (part, _) in self.place.items() if part == split]

    def recipe(self, stride: Sequence[int]) -> Recipe:
        shapes = [self.splits["train"][0].shape[2:]]
        return make_recipe(self.plans, self.configuration, self.dataset_json, shapes, stride, body=False)

    def image(self, name: str, recipe: Recipe) -> np.ndarray:
        split, i = self.place[name]
        try:
            return preprocessed(self.splits[split][0][i], recipe)
        except Failure as error:
            raise NnsslError(f"{self.path}: {split}_images[{i}] {error}") from error


def check_fits(where: Path, images: np.ndarray, plans: dict[str, Any], configuration: str, channels: int) -> None:
    """Refuse images (N, C, Z, Y, X) of another dimension or with other channels than the configuration's.

    Raises:
        NnsslError: one of the two.
    """
    if len(PlansManager(plans).get_configuration(configuration).patch_size) == 3 and images.shape[2] == 1:
        raise NnsslError(f"{where} holds 2D images, {configuration} is 3D: choose another configuration")
    if images.shape[1] != channels:
        raise NnsslError(f"{where} holds images of {images.shape[1]} channel(s), the plans are for {channels}")


def preprocessed(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """(C, Z, Y, X) as stored -> (S, C, *spatial).

    Raises:
        Failure: cannot be preprocessed.
    """
    known = tuple(crop_spacing(recipe.settings))
    voxels = image.astype(np.float32)
    if not np.isfinite(voxels).all():
        raise Failure("holds NaN or infinite values")
    return recipe.network_input(*recipe.preprocess(voxels, known if len(known) == 3 else (1.0, *known)))


def untransposed(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Plans for images whose axes are those of the plans already."""
    return {**plans, "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
