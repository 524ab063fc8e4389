"""A case's label against dataset.json and against its image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nnssl.data.parallel import Failure
from nnssl.errors import NnsslError, shortened

ROUNDING = 1e-4
"""mm, or parts of a unit vector: what rounding in headers may differ by. nnU-Net's own check warns of 1e-8."""
_GEOMETRY = {"sitk_stuff": ("origin", "direction"), "nibabel_stuff": ("original_affine",)}
"""What nnU-Net's readers keep of an image's geometry beside the spacing."""


def named_values(dataset_json: Mapping[str, Any]) -> frozenset[int]:
    """Voxel values that the labels of dataset.json name: classes, parts of regions, the ignore label.

    Raises:
        NnsslError: a label is no number and no list of numbers.
    """
    found = {0}
    for name, value in dataset_json["labels"].items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in parts):
            raise NnsslError(
                f"dataset.json: label {name!r} is {value!r}; it must be a whole number, or a list of them for a region"
            )
        found.update(parts)
    return frozenset(found)


def check_label(
    seg: np.ndarray,
    properties: Mapping[str, Any],
    image_shape: tuple[int, ...],
    image_properties: Mapping[str, Any],
    named: frozenset[int],
) -> str:
    """What a person should look at; empty if the label lies where its image does.

    Args:
        seg: (1, Z, Y, X) as an nnU-Net reader gives it.
        properties: of the label, with its `spacing` in mm.
        image_shape: (Z, Y, X).
        image_properties: of the image, from the same reader.
        named: see `named_values`.

    Raises:
        Failure: another shape than the image's, or values that dataset.json does not name.
    """
    if seg.shape[1:] != tuple(image_shape):
        raise Failure(f"label shape {seg.shape[1:]} differs from image shape {tuple(image_shape)}")
    unknown = sorted(float(v) for v in pd.unique(seg[seg != 0]) if float(v) not in named)
    if unknown:
        raise Failure(
            f"its label holds {shortened([f'{v:g}' for v in unknown], 5)}, which dataset.json does not name "
            f"(it names {shortened([str(v) for v in sorted(named)], 20)})"
        )
    pairs = [("spacing", properties["spacing"], image_properties["spacing"])]
    for block, keys in _GEOMETRY.items():
        if block in properties and block in image_properties:
            pairs += [(key, properties[block][key], image_properties[block][key]) for key in keys]
    apart = [what.replace("original_", "") for what, a, b in pairs if not _alike(a, b)]
    if not apart:
        return ""
    return f"label and image differ in {' and '.join(apart)}: look whether they lie on each other"


def _alike(a: Any, b: Any) -> bool:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=ROUNDING)
