"""`nnssl_plan_finetune`: plans that hold everything about a fine-tuning that `nnUNetv2_train` has no flag for."""

from __future__ import annotations

import argparse
import logging

from nnssl.cli.common import natural, parser, positive_float, positive_int, run, share
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

DESCRIPTION = """Copy a target's plans and write into the copy where pretrained weights are and how to train with them.

  nnssl_plan_finetune -d 27 -p nnsslPlans --init RUN/encoder.pth --epochs 150 -o finetunePlans
  nnUNetv2_train 27 3d_fullres 0 -p finetunePlans -tr nnUNetTrainer_SSLWarmup

The weights are fitted to the target once, for trial, and what would be loaded is shown. Preprocessed data are shared."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_plan_finetune", DESCRIPTION)
    p.add_argument("-d", required=True, metavar="ID", help="target dataset, planned and preprocessed")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="plans to copy")
    p.add_argument(
        "-c", metavar="CONFIG", help="configuration that the weights are tried on; default: 3d_fullres or 2d"
    )
    p.add_argument("-o", required=True, metavar="NAME", help="name of the plans to write")
    p.add_argument("-f", default="0", metavar="FOLD", help="fold that --train-cases draws from")
    p.add_argument("--init", metavar="FILE", help="pretrained weights: encoder.pth or any file nnssl reads")
    p.add_argument(
        "--key-prefix", metavar="OLD[=NEW]", help="of a plain state dict: keys that begin with OLD are meant"
    )
    p.add_argument("--decoder", choices=["pretrained", "fresh"], help="decoder; default: the file's if it has one")
    p.add_argument("--channel-map", metavar="MAP", help="for each channel the file's (from 0) or mean, as 0,0,mean")
    p.add_argument("--min-coverage", type=share, metavar="SHARE", help="share of the encoder that must be pretrained")
    p.add_argument("--schedule", choices=["warmup", "sawtooth", "frozen", "scratch"], default="warmup", help="trainer")
    p.add_argument(
        "--recipe",
        choices=["auto", "published"],
        default="auto",
        help="settings that are not given here; auto: those measured for short trainings below 5000 steps, else published",
    )
    p.add_argument("--epochs", type=positive_int, metavar="N", help="epochs; default: nnU-Net's 1000")
    p.add_argument("--iterations", type=positive_int, metavar="N", help="steps per epoch; default: nnU-Net's 250")
    p.add_argument("--val-iterations", type=positive_int, metavar="N", help="validation steps per epoch; default: 50")
    p.add_argument("--lr", type=positive_float, metavar="X", help="peak learning rate; default: see --recipe")
    p.add_argument("--optimizer", choices=["sgd", "adamw"], help="optimiser; default: see --recipe")
    p.add_argument("--warmup", type=float, metavar="EPOCHS", help="length of the ramp; default: see --recipe")
    p.add_argument("--decay-power", type=positive_float, metavar="X", help="exponent of the decay; default: 0.9")
    p.add_argument(
        "--average", type=float, metavar="POWER", help="hand over an average of the weights; 0 = off; see --recipe"
    )
    p.add_argument("--layer-decay", type=positive_float, metavar="X", help="factor on the rate from stage to stage")
    p.add_argument(
        "--new-layers-lr", type=positive_float, metavar="X", help="factor on the rate of what is not pretrained"
    )
    p.add_argument(
        "--rescale",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="bring pretrained kernels to the size of fresh ones",
    )
    p.add_argument(
        "--head", choices=["fitted", "random"], help="segmentation layers before the first step; see --recipe"
    )
    p.add_argument(
        "--freeze-stages", type=natural, metavar="N", help="encoder stages, from the input, that never learn"
    )
    p.add_argument("--train-cases", type=positive_int, metavar="N", help="train on so many cases only")
    p.add_argument("--seed", type=natural, default=0, help="of the drawn cases and of what is initialised")
    p.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.data.folders import read_plans, resolve_dataset
    from nnssl.trainers.finetune_plan import absolute, draw_cases, finetune_plans, next_command
    from nnssl.trainers.recipes import EPOCHS, ITERATIONS, first_width, plans_block

    dataset = resolve_dataset(a.d, "nnUNet_preprocessed")
    if a.f != "all" and not a.f.isdecimal():
        raise NnsslError(f"-f {a.f}: a fold is a number or 'all'")
    if (a.schedule == "scratch") == bool(a.init):
        raise NnsslError(
            "the control from scratch takes no --init" if a.init else f"--schedule {a.schedule} needs --init FILE"
        )
    plans = read_plans(dataset, a.p)
    there = plans["configurations"]
    configuration = a.c or next((c for c in ("3d_fullres", "2d") if c in there), next(iter(there)))
    settings = {
        "init": absolute(a.init) if a.init else None,
        "key_prefix": a.key_prefix,
        "decoder": a.decoder,
        "channel_map": a.channel_map,
        "min_coverage": a.min_coverage,
        "num_epochs": a.epochs,
        "num_iterations_per_epoch": a.iterations,
        "num_val_iterations_per_epoch": a.val_iterations,
        "initial_lr": a.lr,
        "optimizer": a.optimizer,
        "warmup_epochs": a.warmup,
        "decay_power": a.decay_power,
        "average": a.average,
        "layer_decay": a.layer_decay,
        "new_layers_lr": a.new_layers_lr,
        "rescale": a.rescale,
        "head": a.head,
        "freeze_stages": a.freeze_stages,
        "seed": a.seed,
        "train_cases": draw_cases(dataset, a.p, configuration, a.f, a.train_cases, a.seed) if a.train_cases else None,
    }
    # what was measured is AdamW with one ramp
    if a.recipe == "auto" and a.schedule in ("warmup", "scratch") and a.optimizer != "sgd":
        width = first_width(plans, configuration)
        rest = plans_block(a.epochs or EPOCHS, a.iterations or ITERATIONS, a.schedule == "warmup", width)
        chosen = {k: v for k, v in rest.items() if settings.get(k) is None}
        settings |= chosen
        if chosen:
            said = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items())
            log.info("a short training; chosen for it (--recipe published: not): %s", said)
    report = finetune_plans(dataset, a.p, a.o, settings, configuration, a.overwrite, a.schedule)
    if report is not None:
        log.info("%s fits %s of %s:", a.init, configuration, dataset)
        for line in report.lines():
            log.info("%s", line)
    if settings["train_cases"]:
        log.info("training cases: %s", ", ".join(settings["train_cases"]))
    log.info("wrote plans %s; next:\n  %s", a.o, next_command(dataset, configuration, a.f, a.o, a.schedule))


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
