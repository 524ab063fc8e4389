"""Plans with small crops, so that every method can be run briefly on two CPU cores. The preprocessed cases are shared."""

from __future__ import annotations

import json
import os
from pathlib import Path

BRIEF = {
    ("Dataset004_Hippocampus", "3d_fullres"): ([24, 32, 24], 4),
    ("Dataset027_ACDC", "2d"): ([96, 96], 8),
    ("Dataset027_ACDC", "3d_fullres"): ([12, 64, 64], 2),
}

if __name__ == "__main__":
    for dataset in sorted({name for name, _ in BRIEF}):
        folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
        plans = json.loads((folder / "nnsslPlans.json").read_text())
        plans["plans_name"] = "nnsslPlans_brief"
        for (name, configuration), (patch, batch) in BRIEF.items():
            if name == dataset:
                plans["configurations"][configuration] |= {"patch_size": patch, "batch_size": batch}
        (folder / "nnsslPlans_brief.json").write_text(json.dumps(plans, indent=4))
