"""`nnssl_plan_and_preprocess`: fingerprint, plans and preprocessing for datasets that need no labels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from nnssl.cli.common import parser, positive_int, run
from nnssl.data.cpus import usable_cpus

log = logging.getLogger(__name__)

DESCRIPTION = """Fingerprint, plan and preprocess nnU-Net raw datasets whose cases are all, partly or not at all labelled.

  nnssl_plan_and_preprocess -d 500 --size M                 a pool on its own
  nnssl_plan_and_preprocess -d 500 --like 27                a pool for target dataset 27: what is pretrained fits it

Results lie in nnUNet_preprocessed and are read by nnU-Net too: nnUNetv2_train ID CONFIG FOLD -p nnsslPlans."""


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_plan_and_preprocess", DESCRIPTION)
    p.add_argument("-d", nargs="+", required=True, metavar="ID", help="dataset number(s) or name(s)")
    p.add_argument("-pl", default="nnsslPlanner", metavar="PLANNER", help="planner")
    p.add_argument("--size", default="M", choices=["S", "M", "L", "XL"], help="network size; S is for CPUs")
    p.add_argument("-p", default="nnsslPlans", metavar="PLANS", help="name of the plans to write")
    p.add_argument("--like", metavar="TARGET_ID", help="take the plans of this (preprocessed) target dataset")
    p.add_argument("--like-plans", default="nnsslPlans", metavar="NAME", help="which plans of the target")
    p.add_argument(
        "-c",
        nargs="+",
        metavar="CONFIG",
        help="configurations to preprocess; default: 2d, 3d_fullres, 3d_lowres if planned",
    )
    p.add_argument("-np", type=positive_int, default=min(8, usable_cpus()), metavar="N", help="worker processes")
    p.add_argument("--clean", action="store_true", help="recompute the fingerprint although no raw file changed")
    p.add_argument("--no_pp", action="store_true", help="fingerprint and plans only")
    return p


def main_with(arguments: argparse.Namespace) -> None:
    from nnssl.data.folders import nnunet_folder, resolve_dataset

    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        nnunet_folder(variable, create=variable != "nnUNet_raw")
    for name in [resolve_dataset(d) for d in arguments.d]:
        _one_dataset(name, arguments)


def _one_dataset(name: str, a: argparse.Namespace) -> None:
    from nnssl.planners import extract_fingerprint, plan_like
    from nnssl.planners.planner import describe_plans, get_planner

    planner = get_planner(a.pl)
    if a.like:
        _target_exists(a.like, a.like_plans)
    log.info("== %s", name)
    fingerprint = extract_fingerprint(name, a.np, overwrite=a.clean)
    required = a.c or ()
    if a.like:
        plans = plan_like(name, a.like, a.like_plans, a.p, a.size, required)
    else:
        plans = planner(name, a.size, a.p, required).plan_experiment()
    for line in describe_plans(plans):
        log.info("%s", line)
    configurations = a.c or [c for c in ("2d", "3d_fullres", "3d_lowres") if c in plans["configurations"]]
    if not a.no_pp:
        _preprocess(name, plans, configurations, fingerprint, a.np)


def _target_exists(target: str, plans_name: str) -> None:
    """Say so before an hour of fingerprinting, not after it."""
    from nnssl.data.folders import read_plans, resolve_dataset

    read_plans(resolve_dataset(target, "nnUNet_preprocessed"), plans_name)


def _preprocess(name: str, plans: dict, configurations: list[str], fingerprint: dict, processes: int) -> None:
    from nnssl.data.folders import nnunet_folder
    from nnssl.files import write_json
    from nnssl.planners.preprocess import copy_ground_truth, preprocess_configuration

    found = fingerprint["nnssl"]
    report_file = nnunet_folder("nnUNet_preprocessed") / name / f"{plans['plans_name']}_report.json"
    skipped = _earlier_report(report_file, found["source"])
    skipped["fingerprint"] = found["skipped"]
    for configuration in configurations:
        pool, failed = preprocess_configuration(name, plans, configuration, fingerprint, processes)
        skipped[configuration] = failed
        labelled = sum(case.labelled for case in pool.cases)
        log.info("%s: %d cases ready, %d of them labelled", configuration, len(pool), labelled)
    copy_ground_truth(name, set(found["cases"]))
    write_json({"source": found["source"], "cases": len(found["cases"]), "skipped": skipped}, report_file)
    bad = {case: reason for part in ("fingerprint", *configurations) for case, reason in skipped[part].items()}
    for case, reason in bad.items():
        log.warning("skipped %s: %s", case, reason)
    if bad:
        log.warning("%d case(s) skipped; list in %s", len(bad), report_file)


def _earlier_report(path: Path, source: str) -> dict[str, dict[str, str]]:
    """What an earlier call reported of other configurations, while the raw data are the same."""
    from nnssl.files import read_json

    if not path.is_file():
        return {}
    earlier = read_json(path)
    return earlier["skipped"] if earlier.get("source") == source else {}


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
