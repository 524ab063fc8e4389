"""Steps of an arm that take as long as STEPS steps of the arm `unet`, from what nnssl_benchmark measured.

  python equal_steps.py FOLDER ARM STEPS

FOLDER holds time_ARM.json. Prints a multiple of 20.
"""

import json
import sys
from pathlib import Path

EPOCHS = 20

folder, arm, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ratio = 1.0
if arm != "unet":
    [comparison] = json.loads((folder / f"time_{arm}.json").read_text())["comparisons"]
    ratio = comparison["ratio"]  # time of unet as a share of the arm's
print(max(1, round(steps * ratio / EPOCHS)) * EPOCHS)
