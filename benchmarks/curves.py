"""Does a setting that should only change speed or memory change what is learned? The same steps with and without it.

    python benchmarks/curves.py -d 4 -c 3d_fullres -m spark --steps 20 --set executor=tiles --set checkpointing=true

The loss of every step, from the same weights, crops, views and masks, with each `--set` alone, against the run without any;
also the time of a step, in turns. Rounding grows with every step of training, so the steps are few and the differences
small but seldom zero; a difference of the first step is that of one forward pass.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

import torch
from nnssl.trainers.dry_run import initialized_trainer
from nnssl.trainers.elsewhere import folders_below
from nnssl.trainers.launch import Request, pick_device
from nnssl.trainers.pretraining import nnsslTrainer

from nnssl.data.sampling import TRAINING


def loss_of_step(trainer: nnsslTrainer, batches: object) -> tuple[float, float]:
    """Loss and seconds of the next step."""
    before = float(trainer.state.sums.get("train_loss", 0.0))
    batch = next(batches)  # type: ignore[call-overload]
    begin = time.perf_counter()
    trainer._step(batch)
    after = float(trainer.state.sums["train_loss"])  # waits for the device
    return after - before, time.perf_counter() - begin


def main() -> None:
    """Print a table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="preprocessed dataset")
    p.add_argument("-c", default="3d_fullres", help="configuration")
    p.add_argument("-m", default="spark", help="method")
    p.add_argument("-device", default=None)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--set", action="append", default=[], dest="sets", help="a setting to compare")
    p.add_argument("--with", action="append", default=[], dest="common", help="a setting of all runs")
    args = p.parse_args()
    device = pick_device(args.device)
    settings = ["", *args.sets]
    trainers = []
    flags = {"batch_size": args.batch_size, "epochs": 1, "iterations": args.steps}
    with tempfile.TemporaryDirectory() as elsewhere, folders_below(elsewhere, ["nnUNet_results"]):
        for one in settings:
            sets = (*args.common, "workers=0", *([one] if one else []))
            request = Request(args.d, args.c, args.m, flags=flags, sets=sets, device=args.device)
            trainers.append(initialized_trainer(request, device)[1])
        readers = [t._loader(t.train_pool, TRAINING, range(args.steps), 0) for t in trainers]
        rows = [[loss_of_step(t.method.train() and t, r) for t, r in zip(trainers, readers)] for _ in range(args.steps)]
    losses = torch.tensor([[loss for loss, _ in row] for row in rows], dtype=torch.float64)
    seconds = [median(row[k][1] for row in rows) for k in range(len(settings))]
    print(f"{args.m}, {args.steps} steps, losses from {losses[0, 0]:.4f} to {losses[-1, 0]:.4f}")
    print(f"{'setting':32} {'first step':>12} {'largest':>12} {'time':>8}")
    for k, one in enumerate(settings):
        difference = (losses[:, k] - losses[:, 0]).abs() / losses[:, 0].abs()
        ratio = seconds[k] / seconds[0]
        print(f"{one or '(none)':32} {difference[0]:12.2e} {difference.max():12.2e} {ratio:8.2f}")


if __name__ == "__main__":
    main()
