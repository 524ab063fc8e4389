"""Crops per second and core: nnssl's loader against nnU-Net's loader and transforms, on the same preprocessed files.

  python benchmarks/loader.py -d 4 [-c 3d_fullres] [-p nnsslPlans] [--batch 2] [--batches 10] [--rounds 5]
  python benchmarks/loader.py --synthetic 160 160 160 --patch 64 64 64

All in one process with one thread, in turns; seconds are processor time, so that other work on the machine counts little.
Files that were read before come from memory. Each way gives batches of the plan's patch:

  read                 nnssl: read the crops; all that nnssl's reading processes do, the rest is done on the device
  read, cached         nnssl: the same with unpacked cases in memory (`--set cache=...` of a run), all of them there already
  read, mirror+turn    nnssl: and mirror, rotate and scale them here, as -m spark does in every step
  read, two views      nnssl: and two views each with all of nnssl's augmentation, as -m simclr does
  nnU-Net, read        nnUNetDataLoader without transforms: crops of image and label
  nnU-Net              nnUNetDataLoader with the transforms of nnUNetTrainer (no deep supervision), initial patch and
                       share of crops with foreground as there
  order 3              crops of nnU-Net's initial patch, read as nnssl reads, then batchgenerators' SpatialTransform of
                       third order with nnU-Net's probabilities and mirroring: a stand-in for pipelines that
                       augment so, MIC-DKFZ/nnssl's among them

nnssl_plan_and_preprocess must have preprocessed the dataset. Prints the median crops per second, the smallest and largest of
the rounds, and how many times faster nnssl's ways are than nnU-Net's and the stand-in (medians of ratios within rounds).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch


def main() -> None:
    a = _arguments()
    os.environ.setdefault("nnUNet_results", tempfile.gettempdir())
    torch.set_num_threads(1)
    with _dataset(a) as dataset, tempfile.TemporaryDirectory() as elsewhere:
        ways, what = _ways(dataset, a, elsewhere)
        for step in ways.values():
            step()  # opens files, chooses algorithms
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(a.rounds):
            for name in list(ways) if turn % 2 == 0 else reversed(list(ways)):
                begin = time.process_time()
                for _ in range(a.batches):
                    ways[name]()
                rates[name].append(a.batch * a.batches / (time.process_time() - begin))
    print(f"{what}, batch {a.batch}; one thread; median of {a.rounds} rounds of {a.batches} batches in turns")
    for name, values in rates.items():
        print(f"  {name:<20}{median(values):9.1f} crops/s  ({min(values):.1f}-{max(values):.1f})")
    for ours, theirs in (
        ("read", "nnU-Net, read"),
        ("read", "nnU-Net"),
        ("read", "order 3"),
        ("read, cached", "nnU-Net"),
        ("read, cached", "order 3"),
        ("read, mirror+turn", "nnU-Net"),
        ("read, mirror+turn", "order 3"),
        ("read, two views", "nnU-Net"),
    ):
        ratios = [x / y for x, y in zip(rates[ours], rates[theirs])]
        print(f"  {ours} / {theirs}: {median(ratios):.1f} times as many ({min(ratios):.1f}-{max(ratios):.1f})")


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("-d", metavar="ID")
    which.add_argument("--synthetic", type=int, nargs="+", metavar="N", help="voxels per axis of images of noise")
    p.add_argument("-c", default="3d_fullres")
    p.add_argument("-p", default="nnsslPlans")
    p.add_argument("--patch", type=int, nargs="+", help="with --synthetic (64 per axis if not set)")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--batches", type=int, default=10)
    p.add_argument("--rounds", type=int, default=5)
    return p.parse_args()


@contextlib.contextmanager
def _dataset(a: argparse.Namespace) -> Iterator[str]:
    from nnssl.benchmark.synthetic import synthetic_dataset
    from nnssl.data.folders import resolve_dataset

    if a.d:
        yield resolve_dataset(a.d, "nnUNet_preprocessed")
        return
    with synthetic_dataset(a.c, "S", a.patch or [64] * len(a.synthetic), 1, image=a.synthetic) as name:
        yield name


def _ways(dataset: str, a: argparse.Namespace, elsewhere: str) -> tuple[dict[str, Callable[[], Any]], str]:
    """Name -> what makes one batch; and a line on the data."""
    from nnssl.trainers.elsewhere import folders_below
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans
    from nnssl.data.pool import read_pool

    root = nnunet_folder("nnUNet_preprocessed") / dataset
    plans, description = read_plans(dataset, a.p), read_dataset_json(root / "dataset.json")
    with folders_below(elsewhere, ["nnUNet_results"]), contextlib.redirect_stdout(io.StringIO()):
        trainer = nnUNetTrainer(
            {**copy.deepcopy(plans), "continue_training": False}, a.c, "all", description, torch.device("cpu")
        )
        rotation, dummy_2d, initial, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    configuration = trainer.configuration_manager
    patch = [int(n) for n in configuration.patch_size]
    cases = nnUNetDatasetBlosc2(str(root / configuration.data_identifier))
    norm_mask = configuration.use_mask_for_norm
    transforms = trainer.get_training_transforms(patch, rotation, None, axes, dummy_2d, norm_mask)
    pool = read_pool(root, configuration.data_identifier)
    ours = _Ours(pool, configuration.configuration, a.batch, plans)
    labelled = all(case.labelled for case in pool.cases)
    foreground = trainer.oversample_foreground_percent if labelled else 0.0
    ways = {
        "read": ours.read,
        "read, cached": ours.reader(patch, cached=True),
        "read, mirror+turn": ours.viewed("spark"),
        "read, two views": ours.viewed("simclr"),
        "nnU-Net, read": _nnunet(cases, a.batch, patch, patch, trainer.label_manager, foreground, None),
        "nnU-Net": _nnunet(cases, a.batch, list(initial), patch, trainer.label_manager, foreground, transforms),
        "order 3": _third_order(ours, [int(n) for n in initial], patch, rotation, axes, dummy_2d),
    }
    shape = "x".join(str(int(n)) for n in np.median([case.shape for case in pool.cases], axis=0))
    size = "x".join(str(n) for n in patch)
    return ways, f"{dataset}, {a.c}: {len(pool)} cases of {shape} (median), crops of {size}"


class _Ours:
    """nnssl's loader and views, in this process."""

    def __init__(self, pool: Any, configuration: Any, batch: int, plans: Any) -> None:
        self.pool, self.configuration, self.batch = pool, configuration, batch
        self.channels = len(configuration["normalization_schemes"])
        self._step = itertools.count()
        self.read = self.reader([int(n) for n in configuration["patch_size"]])

    def reader(self, size: list[int], cached: bool = False) -> Callable[[], dict[str, torch.Tensor]]:
        """Batches of crops of some size, from files or from memory."""
        from nnssl.data.cache import CaseCache, stored_bytes
        from nnssl.data.loader import CropDataset
        from nnssl.data.sampling import TRAINING, CropSampler
        from nnssl.data.store import open_case

        two_d = len(size) == 2
        sampler = CropSampler(self.pool, [1, *size] if two_d else size, 0, TRAINING, 0.5)
        cache = None
        if cached:
            cache = CaseCache(self.pool, self.channels, sum(stored_bytes(self.pool, self.channels)))
            for number in range(len(self.pool)):
                cache.array(self.pool.image_path(number), open_case(self.pool.image_path(number)))
        dataset = CropDataset(self.pool, sampler, self.batch, range(self.batch), two_d, cache=cache)
        return lambda: dataset[next(self._step)]

    def viewed(self, name: str) -> Callable[[], Any]:
        """Batches of a method's views, made here."""
        from nnssl.trainers.building import build_method, crop_batch
        from nnssl.trainers.run_config import RunConfig

        run = RunConfig(method=name).resolved(self.batch)
        method = build_method(run, self.configuration, self.channels)[0].train()
        generator = torch.Generator().manual_seed(0)
        cpu = torch.device("cpu")

        @torch.no_grad()
        def make() -> Any:
            return method.views(crop_batch(self.read()).to(cpu), generator)

        return make


def _nnunet(cases: Any, batch: int, initial: Any, patch: Any, labels: Any, share: float, transforms: Any) -> Any:
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    loader = nnUNetDataLoader(cases, batch, initial, patch, labels, share, transforms=transforms)
    return lambda: next(loader)


def _third_order(
    ours: _Ours, initial: list[int], patch: list[int], rotation: Any, axes: Any, dummy_2d: bool
) -> Callable[[], Any]:
    from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
    from batchgenerators.transforms.utility_transforms import NumpyToTensor

    read = ours.reader(initial)
    plane = patch[1:] if dummy_2d else patch
    still = (0.0, 0.0)
    turn = SpatialTransform(
        plane, patch_center_dist_from_border=None, do_elastic_deform=False, do_rotation=True, angle_x=rotation,
        angle_y=still if len(plane) == 2 else rotation, angle_z=still if len(plane) == 2 else rotation, do_scale=True,
        scale=(0.7, 1.4), order_data=3, border_mode_data="constant", random_crop=False, p_rot_per_sample=0.2,
        p_scale_per_sample=0.2,
    )  # fmt: skip
    mirror, to_tensor = MirrorTransform(axes), NumpyToTensor(["data"], "float")

    def make() -> Any:
        data = read()["images"].float().numpy()
        b, c, *size = data.shape
        folded = data.reshape(b, c * size[0], *size[1:]) if dummy_2d else data
        turned = turn(data=folded)["data"]
        if dummy_2d:
            turned = turned.reshape(b, c, size[0], *plane)
        return to_tensor(**mirror(data=turned))

    return make


if __name__ == "__main__":
    main()
