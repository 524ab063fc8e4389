"""The training images of a MedMNIST-style npz as an unlabelled pool: python npz_to_pool.py FILE.npz ID NAME [COUNT]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(file: str, number: str, name: str, count: str = "1000000") -> None:
    folder = Path(os.environ["nnUNet_raw"]) / f"Dataset{int(number):03d}_{name}"
    (folder / "imagesTr").mkdir(parents=True)
    with np.load(file, allow_pickle=False) as content:
        images = content["train_images"][: int(count)]
    if images.ndim != 3 or images.dtype != np.uint8:
        raise SystemExit("this script is for grey 2D images of type uint8")
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "imagesTr" / f"{name}_{i:05d}_0000.png")
    description = {"channel_names": {"0": "grey"}, "labels": {"background": 0}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
