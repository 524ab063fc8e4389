"""What a step of each method costs, in forward passes of the encoder, and what it would cost at least.

  python benchmarks/methods.py [--patch 32 32 32] [--features 16 32 64] [--batch 2] [--rounds 5] [--methods spark byol ...]

One residual U-Net for all, random crops, default options. E is a third of forward and backward pass of the bare encoder on
the batch, D the same of nnU-Net's decoder. A method's floor is what its networks must compute:

  one pass with gradient 3E, decoder 3D, a view of a teacher E; small views, cells and visible blocks their share of a patch

`operations` is what one step really multiplies (counted), `step` the time of views, forward and backward, `views` that of
the views; all in E. Optimiser and reading are the same for all and left out. Every step has a pass of the bare encoder
right before it, whose time is its E; times are processor time on a CPU. Prints medians, and the range of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from nnssl.trainers.trial import random_crops
from unet import build_method, residual_unet

from nnssl.benchmark.operations import operation_counter
from nnssl.methods import METHODS, CropBatch
from nnssl.networks import decoder_features, drop_segmentation_layers


def _one_pass(m: Any, v: Any) -> tuple[float, float]:
    return 3.0, 0.0


def _reconstruction(m: Any, v: Any) -> tuple[float, float]:
    return 3.0, 3.0


def _spark(m: Any, v: Any) -> tuple[float, float]:
    return 3.0 * v["visible"].float().mean().item(), 3.0


def _two_views(m: Any, v: Any) -> tuple[float, float]:
    return 6.0, 0.0


def _teacher(m: Any, v: Any) -> tuple[float, float]:
    """Student and teacher on both views, the student on the small ones, too."""
    return 6.0 + 3.0 * _small(v) + 2.0, 0.0


def _swav(m: Any, v: Any) -> tuple[float, float]:
    return 6.0 + 3.0 * _small(v), 0.0


def _moco(m: Any, v: Any) -> tuple[float, float]:
    return (8.0 if m.config.symmetric else 4.0), 0.0


def _smit(m: Any, v: Any) -> tuple[float, float]:
    return 8.0, (6.0 if m.config.reconstruct == "unet" else 0.0)


def _voco(m: Any, v: Any) -> tuple[float, float]:
    """Cells with gradient, cells by the teacher, queries with gradient."""
    cells = v["bases"].shape[1] * v["bases"][0, 0, 0].numel() / _voxels(m)
    queries = v["queries"].shape[1] * v["queries"][0, 0, 0].numel() / _voxels(m)
    return 3.0 * cells + cells + 3.0 * queries, 0.0


def _swin(m: Any, v: Any) -> tuple[float, float]:
    """Inpainting, rotation and SimCLR, one after the other."""
    return 3.0 + 3.0 + 6.0, 3.0


FLOORS: dict[str, Callable[[Any, Any], tuple[float, float]]] = {
    **dict.fromkeys(("rotation", "flip", "simmim"), _one_pass),
    **dict.fromkeys(("denoising", "masked_region", "models_genesis", "next_slice", "volume_fusion"), _reconstruction),
    **dict.fromkeys(("simclr", "barlow_twins", "dclw", "simsiam", "vicreg"), _two_views),
    **dict.fromkeys(("byol", "dino", "ibot"), _teacher),
    "spark": _spark,
    "moco": _moco,
    "swav": _swav,
    "smit": _smit,
    "voco": _voco,
    "swin_unetr_pretext": _swin,
}
"""Name -> passes of encoder and decoder, of a method and its views."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--patch", type=int, nargs="+", default=[32, 32, 32])
    p.add_argument("--features", type=int, nargs="+", default=[16, 32, 64])
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--methods", nargs="+", default=sorted(METHODS))
    p.add_argument("--executor", choices=["tiles", "dense"], default="tiles", help="of spark")
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    device = torch.device(a.device)
    clock = Clock(device)
    built = {name: Candidate(name, a, device) for name in a.methods}
    reference = Reference(a, device)
    e_flops, d_flops = reference.operations()
    for candidate in built.values():
        candidate.step(clock)  # allocates, chooses algorithms
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in built}
    decoder: list[float] = []
    for turn in range(a.rounds):
        for name in list(built) if turn % 2 == 0 else reversed(list(built)):
            unit, whole = reference.step(clock)
            decoder.append((whole - unit) / unit)
            rounds[name].append(tuple(t / (unit / 3) for t in built[name].step(clock)))
    d = median(decoder)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {device}, {threads} thread(s), patch {a.patch}, {a.features}, batch {a.batch}")
    print(
        f"E {e_flops / 3e9:.2f} GFLOP; D {d_flops / e_flops:.2f} E by operations, {d:.2f} E by time; {a.rounds} rounds"
    )
    print(f"{'method':<20}{'floor':>7}{'operations':>12}{'step':>8}{'of floor':>10}{'views':>8}   step of rounds")
    for name, candidate in built.items():
        e, ds = candidate.floor
        floor = e + ds * d
        steps, views = [sum(r) for r in rounds[name]], [r[0] for r in rounds[name]]
        step, counted = median(steps), candidate.flops / (e_flops / 3)
        print(
            f"{name:<20}{floor:>7.1f}{counted:>12.1f}{step:>8.1f}{step / floor:>10.2f}{median(views):>8.2f}   "
            f"{min(steps):.1f}-{max(steps):.1f}",
            flush=True,
        )


class Clock:
    """Processor time on a CPU, time on a device that is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


class Candidate:
    """A method, its crops and what it costs at least."""

    def __init__(self, name: str, a: argparse.Namespace, device: torch.device) -> None:
        self.method = build_method(name, a.patch, a.features).to(device).train()
        if name == "spark":
            self.method.use_executor(a.executor)  # type: ignore[operator]
        crops = random_crops(self.method, a.batch, device)
        partner = crops if self.method.wants_partner else None
        self.crops = CropBatch(crops.images, crops.inside, crops.case, partner)
        self.generator = torch.Generator().manual_seed(0)
        views = self._views()
        self.floor = FLOORS[name](self.method, views)
        with operation_counter() as counter:
            self.method(views).total.backward()
        self.flops = counter.get_total_flops()

    @torch.no_grad()
    def _views(self) -> Any:
        return self.method.views(self.crops, self.generator)

    def step(self, clock: Clock) -> tuple[float, float]:
        """Seconds of views, and of forward and backward pass."""
        self.method.zero_grad(set_to_none=True)
        begin = clock()
        views = self._views()
        between = clock()
        self.method(views).total.backward()
        end = clock()
        self.method.after_step(0.5)
        return between - begin, end - between


class Reference:
    """Forward and backward pass of the bare encoder, and of encoder and decoder."""

    def __init__(self, a: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        self.unet = residual_unet(len(a.patch), a.features).to(device)
        drop_segmentation_layers(self.unet)
        self.x = torch.randn(a.batch, 1, *a.patch, device=device)

    def _encoder(self) -> None:
        self.unet.encoder(self.x)[-1].square().mean().backward()

    def _both(self) -> None:
        decoder_features(self.unet.decoder, self.unet.encoder(self.x)).square().mean().backward()

    def operations(self) -> tuple[int, int]:
        """Of both passes of the encoder, and of the decoder."""
        counts = []
        for run in (self._encoder, self._both):
            with operation_counter() as counter:
                run()
            counts.append(counter.get_total_flops())
        return counts[0], counts[1] - counts[0]

    def step(self, clock: Clock) -> tuple[float, float]:
        """Seconds of both passes of the encoder, and of encoder and decoder."""
        times = []
        for run in (self._encoder, self._both):
            self.unet.zero_grad(set_to_none=True)
            begin = clock()
            run()
            times.append(clock() - begin)
        return times[0], times[1]


def _voxels(method: Any) -> int:
    count = 1
    for n in method.geometry.patch_size:
        count *= n
    return count


def _small(views: Any) -> float:
    """Voxels of all small views as a share of a large one's."""
    large = views["view_1"][0].numel()
    return sum(v[0].numel() for k, v in views.items() if k.startswith("local_")) / large


if __name__ == "__main__":
    main()
