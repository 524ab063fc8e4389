"""`nnssl_export`: from an encoder file to the weights file of a target."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from nnssl.cli.common import natural, parser, run

log = logging.getLogger(__name__)

DESCRIPTION = """Write the file that nnU-Net's own `nnUNetv2_train -pretrained_weights` takes, for a target's plans.

  nnssl_export encoder.pth -d 27 -p nnsslPlans -c 3d_fullres -o init.pth --decoder fresh

The file is checked by a trial load with nnU-Net's loader before it appears."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_export", DESCRIPTION)
    p.add_argument("encoder", type=Path, metavar="ENCODER", help="encoder.pth of a run")
    p.add_argument("-d", required=True, metavar="ID", help="target dataset")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="plans of the target")
    p.add_argument("-c", required=True, metavar="CONFIG", help="configuration of the target")
    p.add_argument("-o", required=True, type=Path, metavar="FILE", help="file to write")
    p.add_argument(
        "--decoder",
        choices=["fresh", "pretrained"],
        help="decoder (pretrained if the file has one and this is not set)",
    )
    p.add_argument("--seed", type=natural, default=0, help="for a fresh decoder")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnssl.data.folders import nnunet_folder, read_dataset_json, read_plans, resolve_dataset
    from nnssl.errors import NnsslError
    from nnssl.transfer import read_encoder, write_nnunet_init
    from nnssl.transfer.nnunet_init import Decoder

    encoder = read_encoder(a.encoder)
    name = resolve_dataset(a.d, "nnUNet_preprocessed")
    plans = read_plans(name, a.p)
    if a.c not in plans["configurations"]:
        raise NnsslError(
            f"configuration '{a.c}' is not in {a.p} of {name}; there are: {', '.join(plans['configurations'])}"
        )
    if a.o.is_dir():
        raise NnsslError(f"-o {a.o} is a folder: give a file name")
    dataset_json = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / name / "dataset.json")
    architecture = PlansManager(plans).get_configuration(a.c).configuration["architecture"]
    decoder: Decoder = a.decoder or ("pretrained" if encoder.has_decoder else "fresh")
    report = write_nnunet_init(
        encoder,
        a.o,
        architecture=architecture,
        channels=len(dataset_json["channel_names"]),
        decoder=decoder,
        seed=a.seed,
    )
    log.info("%s: for %s, %s, %s, decoder %s; checked with nnU-Net's loader", a.o, name, a.p, a.c, decoder)
    for line in report.lines():
        log.info("%s", line)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
