"""Time of `spark` with its encoder on tiles against dense: same network, crops and masks, in turns, on this device.

  python benchmarks/executors.py [--patch 48 48 48] [--features 16 32 64 128] [--batch 2] [--block N]
      [--ratios 0.25 0.5 0.6 0.75 0.9] [--decoders unet light light-1] [--rounds 5] [--device cpu]

A residual encoder, stride 2 per stage, on random crops; two patch numbers make it 2D. A step is forward and backward pass,
without views and optimiser; `light-1` is the light decoder that ends at scale 1 (`light_stop`). Prints, per decoder and
mask ratio, the median seconds and the median, smallest and largest ratio of steps that ran one after the other; and what
each way keeps for the gradient. OMP_NUM_THREADS limits threads.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from nnssl.trainers.executor import measure_executors
from nnssl.trainers.trial import random_crops
from unet import build_method


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--patch", type=int, nargs="+", default=[48, 48, 48])
    p.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    p.add_argument("--blocks", type=int, nargs="+", help="residual blocks per stage (1 2 2 ... if not set)")
    p.add_argument("--block", type=int, help="edge of a hidden block in voxels (the total stride if not set)")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.6, 0.75, 0.9])
    p.add_argument("--decoders", nargs="+", default=["unet", "light"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    device = torch.device(a.device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s), patch {a.patch}, {a.features}")
    print("decoder  ratio   dense s   tiles s   tiles/dense (smallest-largest)   kept for the gradient")
    for decoder in a.decoders:
        for ratio in a.ratios:
            method = _method(a, ratio, decoder).to(device)
            times = measure_executors(method, a.batch, device, lambda: _autocast(device), rounds=a.rounds)
            pairs = [t / d for t, d in zip(times["tiles"], times["dense"])]
            kept = [_kept(method, a.batch, device, name) for name in ("dense", "tiles")]
            print(
                f"{decoder:<9}{ratio:<6g}{median(times['dense']):9.3f} {median(times['tiles']):9.3f}   {median(pairs):.2f} "
                f"({min(pairs):.2f}-{max(pairs):.2f})                 {kept[1] / kept[0]:.2f} of {kept[0] / 2**20:.0f} MiB",
                flush=True,
            )


def _method(a: argparse.Namespace, ratio: float, decoder: str) -> Any:
    kind, _, stop = decoder.partition("-")
    options = {"mask_ratio": ratio, "decoder_type": kind, "light_stop": int(stop or 0), "block": a.block}
    return build_method("spark", a.patch, a.features, options, a.blocks)


def _autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 on a GPU, as a run would."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def _kept(method: Any, batch: int, device: torch.device, executor: str) -> int:
    """Bytes of the tensors between forward and backward, parameters aside."""
    method.use_executor(executor)
    views = method.views(random_crops(method, batch, device), torch.Generator().manual_seed(0))
    storages: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        if not isinstance(t, torch.nn.Parameter):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), _autocast(device):
        losses = method(views)
        total = sum(storages.values())
    del losses
    return total


if __name__ == "__main__":
    main()
