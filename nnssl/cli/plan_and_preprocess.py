"""`nnssl_plan_and_preprocess`: fingerprint, plans and preprocessing for datasets that need no labels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli.common import parser, positive_float, positive_int, run
from nnssl.data.cpus import usable_cpus
from nnssl.data.parallel import prepare_workers
from nnssl.errors import NnsslError

if TYPE_CHECKING:
    from nnssl.planners.shards import Shard
    from nnssl.transfer import Weights

log = logging.getLogger(__name__)

DESCRIPTION = """Fingerprint, plan and preprocess nnU-Net raw datasets whose cases are all, partly or not at all labelled.

  nnssl_plan_and_preprocess -d 500 --size M                 a pool on its own
  nnssl_plan_and_preprocess -d 500 --like 27                a pool for target dataset 27: what is pretrained fits it
  nnssl_plan_and_preprocess -d 500 -pl nnsslPlannerCT       a pool of CT scans
  nnssl_plan_and_preprocess -d 27 --like encoder.pth        a labelled target for a file of pretrained weights

Results lie in nnUNet_preprocessed and are read by nnU-Net too: nnUNetv2_train ID CONFIG FOLD -p nnsslPlans.
What is done and still valid is not done again, so an interrupted call is simply repeated. A job array shares the work:

  nnssl_plan_and_preprocess -d 500 --no_pp --shard i/n      for i = 0 ... n-1: measure a part of the cases
  nnssl_plan_and_preprocess -d 500 --no_pp                  once: put the fingerprint together and plan
  nnssl_plan_and_preprocess -d 500 --only_pp --shard i/n    for i = 0 ... n-1: preprocess a part of the cases
  nnssl_plan_and_preprocess -d 500 --only_pp                once: put the pool together"""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_plan_and_preprocess", DESCRIPTION)
    p.add_argument("-d", nargs="+", required=True, metavar="ID", help="dataset number(s) or name(s)")
    p.add_argument("-pl", metavar="PLANNER", help="planner; nnsslPlanner if not set")
    p.add_argument("--size", choices=["S", "M", "L", "XL"], help="network size, M if not set; S is for CPUs")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="name of the plans to write")
    p.add_argument(
        "--like",
        metavar="ID|FILE",
        help="take the plans of this (preprocessed) dataset, or the network of a weights file",
    )
    p.add_argument("--like-plans", metavar="NAME", help="which plans of that dataset; nnsslPlans if not set")
    p.add_argument(
        "--like-spacing",
        choices=["pretrained", "target", "fixed"],
        help="with a weights file: its spacing (default), what nnU-Net would choose, or --spacing",
    )
    p.add_argument(
        "--spacing",
        nargs=3,
        type=positive_float,
        metavar=("Z", "Y", "X"),
        help="target spacing in mm, in the order of the image arrays; default: the planner's choice",
    )
    p.add_argument(
        "--window",
        metavar="NAME|LOW,HIGH",
        help="CT only: clip to wide, lung, soft or bounds in HU (--window=-160,240); default: from the pool's percentiles",
    )
    p.add_argument(
        "--encoder", metavar="NAME", help="2D on a timm backbone, such as resnet50, instead of nnU-Net's encoder"
    )
    p.add_argument(
        "-c",
        nargs="+",
        metavar="CONFIG",
        help="configurations to preprocess; default: 2d, 3d_fullres, 3d_lowres if planned",
    )
    p.add_argument("-np", type=positive_int, default=min(8, usable_cpus()), metavar="N", help="worker processes")
    p.add_argument("--clean", action="store_true", help="do everything again although no raw file changed")
    p.add_argument("--no_pp", action="store_true", help="fingerprint and plans only")
    p.add_argument("--only_pp", action="store_true", help="preprocess only, for the plans that there are")
    p.add_argument("--shard", metavar="i/n", help="do part i (from 0) of n; with --no_pp or --only_pp")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.data.folders import nnunet_folder, resolve_dataset
    from nnssl.data.plan_names import check_not_nnunets

    if a.no_pp and a.only_pp:
        raise NnsslError("--no_pp and --only_pp exclude each other")
    if a.shard and not (a.no_pp or a.only_pp):
        raise NnsslError(
            "--shard goes with --no_pp (measure a part of the cases) or --only_pp (preprocess a part); "
            "see nnssl_plan_and_preprocess -h for the four calls"
        )
    _check_flags(a)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        nnunet_folder(variable, create=variable != "nnUNet_raw")
    names = [resolve_dataset(d) for d in a.d]
    for name in names if not a.only_pp else ():
        check_not_nnunets(nnunet_folder("nnUNet_preprocessed") / name / f"{a.p}.json", "-p")
    prepare_workers("nnssl.planners.preprocess")
    from nnssl.planners.shards import Shard  # imports all of the planners: not before the workers do

    shard = Shard.parse(a.shard) if a.shard else None
    for name in names:
        log.info("== %s%s", name, f", part {shard}" if shard else "")
        if shard and a.no_pp:
            _measure_part(name, shard, a)
        elif shard:
            _preprocess_part(name, shard, a)
        else:
            _one_dataset(name, a)


def _check_flags(a: argparse.Namespace) -> None:
    """Refuse what would be passed over; fill in the defaults of flags of which it matters whether they are given."""
    from nnssl.data.plan_names import check_plans_name

    check_plans_name(a.p, "-p")
    if a.only_pp:
        for name in ("pl", "size", "like", "like_plans", "like_spacing", "spacing", "window", "encoder"):
            if getattr(a, name) is not None:
                flag = f"-{name}" if len(name) < 3 else f"--{name.replace('_', '-')}"
                raise NnsslError(
                    f"{flag} is for planning; --only_pp takes the plans as they are: leave one of them out"
                )
    if a.clean and a.no_pp and a.shard:
        raise NnsslError(
            "--clean and --no_pp --shard exclude each other: delete the dataset's dataset_fingerprint.json in "
            "nnUNet_preprocessed once, then measure the parts"
        )
    a.pl, a.size, a.like_plans = a.pl or "nnsslPlanner", a.size or "M", a.like_plans or "nnsslPlans"


def _measure_part(name: str, shard: Shard, a: argparse.Namespace) -> None:
    from nnssl.planners.fingerprint import measure_shard

    measured, skipped = measure_shard(name, a.np, shard)
    _warn_of(skipped)
    log.info("part %s: %d cases measured, %d cannot be used", shard, measured, len(skipped))


def _preprocess_part(name: str, shard: Shard, a: argparse.Namespace) -> None:
    from nnssl.planners.preprocess import preprocess_cases

    fingerprint, plans = _as_planned(name, a.p)
    for configuration in _configurations(plans, a.c):
        outcome = preprocess_cases(name, plans, configuration, fingerprint, a.np, shard, a.clean)
        _warn_of(outcome.failed)
        log.info(
            "%s, part %s: %d cases ready, %d failed", configuration, shard, len(outcome.cases), len(outcome.failed)
        )


def _one_dataset(name: str, a: argparse.Namespace) -> None:
    if a.only_pp:
        fingerprint, plans = _as_planned(name, a.p)
    else:
        fingerprint, plans = _plan(name, a)
    if not a.no_pp:
        _preprocess(name, plans, _configurations(plans, a.c), fingerprint, a)


def _plan(name: str, a: argparse.Namespace) -> tuple[dict, dict]:
    from nnssl.planners import PlannerOptions, extract_fingerprint, get_planner, plan_like
    from nnssl.planners.like_weights import LikeWeightsPlanner, SpacingPolicy
    from nnssl.planners.planner import LEFT_OUT, describe_plans

    planner = get_planner(a.pl)
    options = PlannerOptions(tuple(a.spacing) if a.spacing else None, _window(a.window), a.encoder)
    weights = _weights_to_fit(a)
    if a.like:
        _nothing_of_our_own(a, weights is not None)
    if a.like and weights is None:
        _target_exists(a.like, a.like_plans)
    fingerprint = extract_fingerprint(name, a.np, overwrite=a.clean)
    if weights is not None:
        policy: SpacingPolicy = a.like_spacing or "pretrained"
        plans = LikeWeightsPlanner(name, weights, policy, a.size, a.p, a.c or (), options).plan_experiment()
    elif a.like:
        plans = plan_like(name, a.like, a.like_plans, a.p, a.size, a.c or ())
    else:
        plans = planner(name, a.size, a.p, a.c or (), options).plan_experiment()
    for case, remarks in fingerprint["nnssl"]["outliers"].items():
        if case not in plans.get(LEFT_OUT, {}):  # those were named with the reason already
            log.warning("look at %s: %s", case, "; ".join(remarks))
    for line in describe_plans(plans):
        log.info("%s", line)
    return fingerprint, plans


def _window(text: str | None) -> str | tuple[float, float] | None:
    if text is None or "," not in text:
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise NnsslError(f"--window {text}: give two numbers in HU, for example --window=-160,240") from None
    return low, high


def _weights_to_fit(a: argparse.Namespace) -> Weights | None:
    """Content of the file that --like names, if it names one."""
    if a.like is None or a.like.isdecimal() or a.like.startswith("Dataset"):
        if a.like_spacing:
            raise NnsslError("--like-spacing goes with --like FILE")
        return None
    from nnssl.transfer.reading import read_weights

    return read_weights(a.like)


def _nothing_of_our_own(a: argparse.Namespace, file: bool) -> None:
    fixed = file and a.like_spacing == "fixed"
    for flag, given in (
        ("-pl", a.pl != "nnsslPlanner"),
        ("--spacing", a.spacing and not fixed),
        ("--window", a.window),
        ("--encoder", a.encoder),
    ):
        if given:
            advice = "; --like-spacing fixed takes a spacing" if file and flag == "--spacing" else ""
            raise NnsslError(f"{flag} and --like exclude each other: with --like everything is given by it{advice}")


def _target_exists(target: str, plans_name: str) -> None:
    """Say so before an hour of fingerprinting, not after it."""
    from nnssl.data.folders import read_plans, resolve_dataset

    read_plans(resolve_dataset(target, "nnUNet_preprocessed"), plans_name)


def _as_planned(name: str, plans_name: str) -> tuple[dict, dict]:
    """Fingerprint and plans as an earlier call left them."""
    from nnssl.data.folders import read_plans
    from nnssl.planners.fingerprint import current_fingerprint

    return current_fingerprint(name), read_plans(name, plans_name)


def _configurations(plans: dict, wanted: list[str] | None) -> list[str]:
    there = plans["configurations"]
    for configuration in wanted or ():
        if configuration not in there:
            raise NnsslError(f"configuration {configuration} is not planned; there are: {', '.join(there)}")
    return wanted or [c for c in ("2d", "3d_fullres", "3d_lowres") if c in there]


def _preprocess(name: str, plans: dict, configurations: list[str], fingerprint: dict, a: argparse.Namespace) -> None:
    from nnssl.data.folders import nnunet_folder
    from nnssl.files import write_json
    from nnssl.planners.ground_truth import update_ground_truth
    from nnssl.planners.planner import LEFT_OUT
    from nnssl.planners.preprocess import preprocess_configuration

    found = fingerprint["nnssl"]
    report_file = nnunet_folder("nnUNet_preprocessed") / name / f"{plans['plans_name']}_report.json"
    skipped = _earlier_report(report_file, found["source"])
    skipped["fingerprint"] = found["skipped"]
    skipped |= {"plans": plans[LEFT_OUT]} if LEFT_OUT in plans else {}
    for configuration in configurations:
        pool, failed = preprocess_configuration(name, plans, configuration, fingerprint, a.np, a.clean)
        skipped[configuration] = failed
        labelled = sum(case.labelled for case in pool.cases)
        log.info("%s: %d cases ready, %d of them labelled", configuration, len(pool), labelled)
    update_ground_truth(name)
    write_json({"source": found["source"], "cases": len(found["cases"]), "skipped": skipped}, report_file)
    bad = {case: reason for part in ("fingerprint", *configurations) for case, reason in skipped[part].items()}
    _warn_of(bad)
    if bad or LEFT_OUT in plans:
        log.warning("%d case(s) skipped; list in %s", len({*bad, *plans.get(LEFT_OUT, ())}), report_file)


def _warn_of(skipped: dict[str, str]) -> None:
    for case, reason in skipped.items():
        log.warning("skipped %s: %s", case, reason)


def _earlier_report(path: Path, source: str) -> dict[str, dict[str, str]]:
    """What an earlier call reported of other configurations, while the raw data are the same."""
    from nnssl.files import read_json

    if not path.is_file():
        return {}
    earlier = read_json(path)
    skipped = earlier.get("skipped") if isinstance(earlier, dict) and earlier.get("source") == source else None
    return skipped if isinstance(skipped, dict) else {}


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
