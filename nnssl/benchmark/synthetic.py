"""A data set made on the spot, planned and preprocessed as any other: for timing without data."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import zoom

from nnssl.errors import NnsslError
from nnssl.files import write_json
from nnssl.planners import extract_fingerprint
from nnssl.planners.planner import nnsslPlanner
from nnssl.planners.preprocess import preprocess_configuration
from nnssl.trainers.elsewhere import folders_below

NAME = "Dataset999_Synthetic"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
CONFIGURATIONS = {"2d": 2, "3d_fullres": 3}
# Patches that nnU-Net's rules give images larger than them in 3D, and round ones in 2D.
PATCHES = {"S": {2: 256, 3: 64}, "M": {2: 512, 3: 128}, "L": {2: 512, 3: 160}, "XL": {2: 512, 3: 192}}
CPU_PATCH = {2: 96, 3: 32}
"""A CPU takes minutes for a few steps of those."""
BATCH = {2: 12, 3: 2}
_CASES, _SLICES, _LARGER = 2, 8, 1.25
_LIMIT = {2: 2048, 3: 256}


class FixedPatchPlanner(nnsslPlanner):
    """The size's network for one patch, whatever it costs.

    Args:
        patch: voxels per axis of the 2D or 3D patch; rounded up to what the network's strides divide.
        size: `S`, `M`, `L` or `XL`.
        configuration: the one that is wanted.
    """

    def __init__(self, patch: Sequence[int], size: str, configuration: str) -> None:
        self.patch = tuple(patch)
        super().__init__(NAME, size, required=(configuration,))
        self.UNet_vram_target_GB = 1e9

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict
    ) -> dict[str, Any]:
        """As for images of the patch's shape."""
        if len(spacing) == len(self.patch):
            median_shape = np.array(self.patch)
        plan = super().get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)
        plan["batch_size"] = BATCH[len(spacing)]
        return plan


def default_patch(configuration: str, size: str, device: str) -> list[int]:
    """Voxels per axis where the user named none: the size's own, on a CPU fewer.

    Args:
        configuration: `2d` or `3d_fullres`.
        size: of the network.
        device: `cpu`, `cuda` or `mps`.
    """
    dim = _dimensions(configuration)
    return [CPU_PATCH[dim] if device == "cpu" else PATCHES[size][dim]] * dim


def _dimensions(configuration: str) -> int:
    if configuration not in CONFIGURATIONS:
        raise NnsslError(f"-c {configuration}: --synthetic knows {', '.join(CONFIGURATIONS)}")
    return CONFIGURATIONS[configuration]


@contextmanager
def synthetic_dataset(
    configuration: str,
    size: str,
    patch: Sequence[int],
    channels: int,
    image: Sequence[int] | None = None,
) -> Iterator[str]:
    """A data set of smooth noise in folders of its own, which nnU-Net's variables point to meanwhile.

    Args:
        configuration: `2d` or `3d_fullres`.
        size: of the network.
        patch: voxels per axis.
        channels: of the images.
        image: their voxels per axis, at least the patch's; None = somewhat more than the patch.

    Yields:
        The data set's name.
    """
    dim = _dimensions(configuration)
    if len(patch) != dim or not all(8 <= n <= _LIMIT[dim] for n in patch):
        raise NnsslError(f"--patch: {configuration} needs {dim} numbers from 8 to {_LIMIT[dim]}")
    with tempfile.TemporaryDirectory() as folder, folders_below(folder, FOLDERS):
        _write_raw(Path(folder) / "raw" / NAME, image or [round(_LARGER * n) for n in patch], channels)
        with _quiet():
            fingerprint = extract_fingerprint(NAME, 1)
            plans = FixedPatchPlanner(patch, size, configuration).plan_experiment()
            preprocess_configuration(NAME, plans, configuration, fingerprint, 1)
        yield NAME


@contextmanager
def _quiet() -> Iterator[None]:
    """Where the temporary plans lie is of no use to anyone."""
    planners = logging.getLogger("nnssl.planners")
    before = planners.level
    planners.setLevel(logging.WARNING)
    try:
        yield
    finally:
        planners.setLevel(before)


def _write_raw(folder: Path, image: Sequence[int], channels: int) -> None:
    shape = list(image)
    spacing = (1.0, 1.0, 1.0)
    if len(image) == 2:  # few thick slices
        shape, spacing = [_SLICES, *shape], (1.0, 1.0, 5.0)
    rng = np.random.default_rng(0)
    (folder / "imagesTr").mkdir(parents=True)
    for case in range(_CASES):
        for channel in range(channels):
            case_image = sitk.GetImageFromArray(_smooth(rng, shape))
            case_image.SetSpacing(spacing)
            sitk.WriteImage(case_image, str(folder / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz"), True, 1)
    names = {str(c): "MRI" for c in range(channels)}
    content = {"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": _CASES}
    write_json(content, folder / "dataset.json")


def _smooth(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Blobs with some noise, int16 (Z, Y, X): it is compressed about as images are."""
    coarse = rng.normal(500, 150, [max(2, n // 16) for n in shape]).astype(np.float32)
    field = zoom(coarse, [n / c for n, c in zip(shape, coarse.shape)], order=1)[tuple(slice(n) for n in shape)]
    return np.clip(field + rng.normal(0, 20, shape), 1, 2000).astype(np.int16)
