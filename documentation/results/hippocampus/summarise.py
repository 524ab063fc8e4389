"""Print the comparison as a Markdown table from nnU-Net's own results (run.sh has made them)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

ARMS = {"from scratch": "nnUNetTrainer_SSLScratch", "pretrained": "nnUNetTrainer_SSLWarmup"}
EPOCHS = (5, 10, 15, 20, 25)


def main() -> None:
    results = Path(os.environ["nnUNet_results"]) / "Dataset105_HippocampusFew"
    print("| draw | arm | " + " | ".join(f"epoch {e}" for e in EPOCHS) + " | whole-case Dice |")
    print("|" + "---|" * (len(EPOCHS) + 3))
    for draw in (0, 1):
        for arm, trainer in ARMS.items():
            folder = results / f"{trainer}__nnsslPlans__3d_fullres" / f"fold_{draw}"
            logging = torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False)["logging"]
            curve = np.asarray(logging["mean_fg_dice"], dtype=float)
            final = json.loads((folder / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
            cells = " | ".join(f"{curve[e - 1]:.3f}" for e in EPOCHS)
            print(f"| {draw} | {arm} | {cells} | {final:.4f} |")


if __name__ == "__main__":
    main()
