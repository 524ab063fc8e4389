"""`nnssl_export`: from an encoder file to the weights file of a target."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from nnssl.cli.common import natural, parser, run, share
from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

DESCRIPTION = """Write the file that nnU-Net's own `nnUNetv2_train -pretrained_weights` takes, for a target's plans.

  nnssl_export encoder.pth -d 27 -p nnsslPlans -c 3d_fullres -o init.pth --decoder fresh
  nnssl_export encoder.pth -o encoder.safetensors       without a target: the same file in the other format

The file is checked by a trial load with nnU-Net's loader before it appears."""

NETWORKS = ("plans", "primus_s", "primus_b", "primus_m", "primus_l")
FOR_TARGETS = ("c", "decoder", "channel_map", "key_prefix", "report")


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_export", DESCRIPTION)
    p.add_argument("encoder", metavar="ENCODER", help="encoder.pth of a run, or any other file that nnssl reads")
    p.add_argument("-d", metavar="ID", help="target dataset; without one the file is only converted")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="plans of the target")
    p.add_argument("-c", metavar="CONFIG", help="configuration of the target")
    p.add_argument("-o", required=True, type=Path, metavar="FILE", help="file to write")
    p.add_argument(
        "--network", choices=NETWORKS, default="plans", help="of the target: the plans', or a Primus trainer's"
    )
    p.add_argument(
        "--decoder",
        choices=["fresh", "pretrained"],
        help="decoder (pretrained if the file has one and this is not set)",
    )
    p.add_argument("--channel-map", metavar="MAP", help="for each channel the file's (from 0) or mean, as 0,0,mean")
    p.add_argument(
        "--key-prefix", metavar="OLD[=NEW]", help="of a plain state dict: keys that begin with OLD are meant"
    )
    p.add_argument(
        "--min-coverage", type=share, default=1.0, metavar="SHARE", help="of the encoder that must be pretrained"
    )
    p.add_argument("--report", type=Path, metavar="FILE", help="also write the load report into this JSON file")
    p.add_argument("--seed", type=natural, default=0, help="for a fresh decoder")
    return p


def main_with(a: argparse.Namespace) -> None:
    for path in (a.o, a.report):
        if path is not None and path.is_dir():
            raise NnsslError(f"{path} is a folder: give a file name")
    if a.d is None:
        convert(a)
    elif a.c is None:
        raise NnsslError("-d names a target: say with -c which of its configurations the weights are for")
    else:
        export(a)


def convert(a: argparse.Namespace) -> None:
    """An encoder file of ours from torch's format to safetensors, or back."""
    from nnssl.transfer import read_encoder, write_encoder
    from nnssl.transfer.reading import find_source
    from nnssl.transfer.verify import verify_file

    given = [f"--{n.replace('_', '-')}" if len(n) > 1 else f"-{n}" for n in FOR_TARGETS if getattr(a, n) is not None]
    if given:
        raise NnsslError(f"{given[0]} is about a target: name it with -d")
    if a.o.suffix not in (".safetensors", ".pth", ".pt"):
        raise NnsslError(f"-o {a.o}: the ending says the format, .safetensors or .pth")
    source = find_source(a.encoder)
    if a.o.exists() and a.o.samefile(source):
        raise NnsslError(f"-o {a.o} is the file itself: give another name")
    write_encoder(read_encoder(source), a.o)
    verify_file(a.o)
    log.info("%s: the same tensors and provenance as %s; its digests are right", a.o, a.encoder)


def export(a: argparse.Namespace) -> None:
    """The weights file of a target."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnssl.data.folders import check_configuration, nnunet_folder, read_dataset_json, read_plans, resolve_dataset
    from nnssl.files import read_json, write_json
    from nnssl.transfer import target_of, write_nnunet_init
    from nnssl.transfer.adapt import parse_channel_map
    from nnssl.transfer.nnunet_init import Decoder
    from nnssl.transfer.reading import read_weights

    name = resolve_dataset(a.d, "nnUNet_preprocessed")
    plans = read_plans(name, a.p)
    check_configuration(plans, a.c, a.p, name)
    channel_map = parse_channel_map(a.channel_map) if a.channel_map else None
    weights = read_weights(a.encoder, a.key_prefix)
    folder = nnunet_folder("nnUNet_preprocessed") / name
    known = folder / "dataset_fingerprint.json"
    fingerprint = read_json(known) if known.is_file() else None
    dataset_json = read_dataset_json(folder / "dataset.json")
    fitting = {"seed": a.seed, "channel_map": channel_map, "min_coverage": a.min_coverage}
    if a.network != "plans":
        from nnssl.transfer.primus_init import TRAINERS, write_primus_init

        if a.decoder == "pretrained":
            raise NnsslError(
                "--decoder pretrained: the decoder of a Primus depends on the classes and always starts fresh"
            )
        where = {"plans": plans, "configuration": a.c, "dataset_json": dataset_json, "fingerprint": fingerprint}
        report = write_primus_init(weights, a.o, a.network, **where, **fitting)
        said = f"for -tr {TRAINERS[a.network]} and the labels of this dataset"
    else:
        configuration = PlansManager(plans).get_configuration(a.c).configuration
        target = target_of(plans, configuration, dataset_json, fingerprint)
        decoder: Decoder = a.decoder or ("pretrained" if weights.has_decoder else "fresh")
        report = write_nnunet_init(weights, a.o, target=target, decoder=decoder, **fitting)
        said = f"decoder {decoder}"
    if a.report is not None:
        write_json(report.as_dict(), a.report)
    log.info("%s: for %s, %s, %s, %s; checked with nnU-Net's loader", a.o, name, a.p, a.c, said)
    log.info("from %s", weights.kind)
    for line in report.lines():
        log.info("%s", line)


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
