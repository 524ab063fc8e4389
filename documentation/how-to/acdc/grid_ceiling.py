"""What the grid of a plan costs: labels are brought to the grid and back by nnU-Net's own resampling, and compared.

No network is involved: this is the Dice that a perfect one would reach.

    python grid_ceiling.py $nnUNet_raw/Dataset027_ACDC
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

CLASSES = {"RV": 1, "MYO": 2, "LV": 3}
WAY = {"order": 1, "order_z": 0, "force_separate_z": None}  # nnU-Net's, for labels and for probabilities


def round_trip(label: np.ndarray, spacing: tuple[float, ...], target: list[float]) -> np.ndarray:
    """Label (Z, Y, X) -> grid of the plan -> back, as training and prediction do."""
    shape = compute_new_shape(label.shape, spacing, target)
    seen = resample_data_or_seg_to_shape(label[None], shape, spacing, target, is_seg=True, **WAY)[0]
    one_hot = np.stack([seen == k for k in range(len(CLASSES) + 1)]).astype(np.float32)
    back = resample_data_or_seg_to_shape(one_hot, label.shape, target, spacing, is_seg=False, **WAY)
    return back.argmax(0)


def main(dataset: Path) -> None:
    files = sorted((dataset / "labelsTr").glob("*.nii.gz"))
    images = [sitk.ReadImage(str(f)) for f in files]
    in_plane = float(np.median([i.GetSpacing()[0] for i in images]))
    scores: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for image in images:
        label, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
        stacks = "10 mm slices" if spacing[0] >= 10 else "thinner slices"
        for plan, z in {"5 mm": 5.0, "10 mm": 10.0, "slices kept": spacing[0]}.items():
            back = round_trip(label, spacing, [z, in_plane, in_plane])
            pairs = [(back == k, label == k) for k in CLASSES.values()]
            scores[stacks, plan].append([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])
    for (stacks, plan), rows in sorted(scores.items()):
        means = ", ".join(f"{name} {value:.3f}" for name, value in zip(CLASSES, np.nanmean(rows, axis=0)))
        print(f"{stacks}, {len(rows)} cases, plan {plan}: {means}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
