"""How many slices thinning keeps of preprocessed 2D pools, by its distance; --pictures: pairs that it takes for one.

python documentation/results/sampling/thinning.py Dataset027_ACDC Dataset050_SarcomaCT --pictures .
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from nnssl.data.cpus import usable_cpus
from nnssl.data.folders import nnunet_folder, read_plans
from nnssl.data.pool import Pool, read_pool
from nnssl.data.slice_hashes import hashes_path, known_slices, slice_hashes, thin
from nnssl.data.store import open_case
from nnssl.data.thinning import bit_distance, keep_apart

DISTANCES = (0, 2, 4, 6, 8)
EMPTY_BELOW = 0.05


def draw_pairs(pool: Pool, known: dict, distance: int, path: Path) -> None:
    """Dropped slices (above) that are exactly `distance` from the kept one they are taken for (below): the worst."""
    import matplotlib.pyplot as plt

    subjects = defaultdict(list)
    for i, case in enumerate(pool.cases):
        subjects[case.subject or i].append(i)
    pairs = []
    for members in subjects.values():
        where = [(i, z) for i in members for z in range(pool.cases[i].shape[0])]
        hashes = np.concatenate([known["", pool.cases[i].name][0] for i in members])
        like = keep_apart(hashes, distance)
        far = bit_distance(hashes, hashes[like])
        pairs += [(where[j], where[k]) for j, k in enumerate(like) if far[j] == distance and j != k]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:8]
    figure, axes = plt.subplots(2, 8, figsize=(20, 5.5), layout="constrained")
    for column, pair in enumerate(chosen):
        for line, (i, z) in enumerate(pairs[pair]):
            axes[line, column].imshow(np.asarray(open_case(pool.image_path(i))[0, z], np.float32), cmap="gray")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=60)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", nargs="+")
    p.add_argument("--pictures", type=Path, metavar="FOLDER")
    a = p.parse_args()
    print("| pool | slices | " + " | ".join(f"{d}" for d in DISTANCES) + " |")
    print("|---" * (2 + len(DISTANCES)) + "|")
    for name in a.dataset:
        identifier = read_plans(name, "nnsslPlans")["configurations"]["2d"]["data_identifier"]
        pool = read_pool(nnunet_folder("nnUNet_preprocessed") / name, identifier)
        known = known_slices(pool, "", slice_hashes(pool, hashes_path(pool.root, identifier), usable_cpus()))
        total = sum(case.shape[0] for case in pool.cases)
        kept = [len(thin(pool, known, d, EMPTY_BELOW).kept.slices) for d in DISTANCES]  # type: ignore[union-attr]
        print(f"| {name}, {len(pool)} cases | {total} | " + " | ".join(f"{100 * k / total:.0f} %" for k in kept) + " |")
        if a.pictures:
            draw_pairs(pool, known, 4, a.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
