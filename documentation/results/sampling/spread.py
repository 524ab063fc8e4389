"""How much small crops of a preprocessed pool vary, for the threshold below which a crop is empty.

    python documentation/results/sampling/spread.py Dataset050_SarcomaCT 3d_fullres --size 16 32 32

Crops lie anywhere (no body positions are used).
"""

from __future__ import annotations

import argparse

import numpy as np

from nnssl.data.folders import nnunet_folder, read_plans
from nnssl.data.pool import read_pool
from nnssl.data.sampling import TRAINING, CropSampler
from nnssl.data.store import CaseReader

EDGES = (0, 0.001, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 100)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset")
    p.add_argument("configuration")
    p.add_argument("--size", type=int, nargs=3, help="of the crops; the plans' patch if not set")
    p.add_argument("--crops", type=int, default=1500)
    a = p.parse_args()
    configuration = read_plans(a.dataset, "nnsslPlans")["configurations"][a.configuration]
    patch = configuration["patch_size"]
    pool = read_pool(nnunet_folder("nnUNet_preprocessed") / a.dataset, configuration["data_identifier"])
    sampler = CropSampler(pool, a.size or [1] * (3 - len(patch)) + patch, 0, TRAINING, 0.0)
    reader = CaseReader()
    spread = []
    for n in range(a.crops):
        place = sampler(n)
        crop, inside = reader.crop(pool.image_path(place.case), place.lower, sampler.size)
        part = crop[(slice(None), *(slice(low, high) for low, high in inside))].astype(np.float64)
        spread.append(part.std(axis=(1, 2, 3)).max())
    print(f"{a.dataset}, {a.crops} crops of {'x'.join(map(str, sampler.size))}: number by standard deviation")
    counts, _ = np.histogram(spread, EDGES)
    print("| " + " | ".join(f"< {edge:g}" for edge in EDGES[1:-1]) + " | more |")
    print("|---" * len(counts) + "|")
    print("| " + " | ".join(map(str, counts)) + " |")


if __name__ == "__main__":
    main()
