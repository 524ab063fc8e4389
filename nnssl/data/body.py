"""Where the body is in an image: not air, not padding, and in CT not the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnssl.data.ct_body import ct_body
from nnssl.data.hounsfield import explain_not_hounsfield, is_ct

USUAL_EXTENT_MM = 400.0
"""Field of view of a body CT."""


def body_mask(data: np.ndarray, channel_names: Sequence[str], spacing: Sequence[float] | None = None) -> np.ndarray:
    """Where the body is. Labels are never looked at.

    With a channel named `CT` that holds Hounsfield units: the body's parts with everything inside them, lungs and bowel
    gas too, without the table; see `nnssl.data.ct_body`. Otherwise, for each channel: if the darker of Otsu's two classes
    is nearly uniform it is air, and the body is what lies clearly above it; if not (a crop from inside the body), all
    that is not the minimum. The channels' bodies are joined.

    Args:
        data: (C, Z, Y, X) raw intensities.
        channel_names: as in dataset.json.
        spacing: (Z, Y, X) in mm; used for CT. None = as if the image were about `USUAL_EXTENT_MM` wide.

    Returns:
        (Z, Y, X) bool, never empty.
    """
    ct = [c for c, n in zip(data, channel_names) if is_ct(n) and explain_not_hounsfield(c) is None]
    if ct:  # where there is CT it decides: it knows the table, and a PET does not know the air
        mm = (USUAL_EXTENT_MM / max(data.shape[1:]),) * 3 if spacing is None else spacing
        masks = [ct_body(channel, mm) for channel in ct]
    else:
        masks = [channel > _air_level(channel) for channel in data]
    mask = np.logical_or.reduce(masks)
    return mask if mask.any() else np.ones_like(mask)


def _air_level(image: np.ndarray) -> float:
    """Intensity below which a voxel is air; the minimum where there is no air."""
    from skimage.filters import threshold_otsu

    sample = image[tuple(slice(None, None, max(1, n // 128)) for n in image.shape)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    if not high > low:
        return float(image.min())
    clipped = np.clip(sample, low, high)
    threshold = float(threshold_otsu(clipped))
    dark, bright = clipped[clipped <= threshold], clipped[clipped > threshold]
    if dark.size == 0 or bright.size == 0:
        return low
    spread = (float(dark.mean()) - low) / max(float(bright.mean()) - low, 1e-12)
    if spread > 0.25:
        return float(image.min())
    return 0.5 * (float(dark.mean()) + threshold)
