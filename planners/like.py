"""Plans for a pool that fit a target dataset: what is pretrained then loads into the target's network by construction."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nnssl.planners.fingerprint import FINGERPRINT
from nnssl.planners.planner import LEFT_OUT, cap_batch_size, save_plans, take_over_splits

from nnssl.data.checked import read_fingerprint
from nnssl.data.folders import nnunet_folder, raw_cases, read_dataset_json, read_plans, resolve_dataset
from nnssl.data.headers import read_header
from nnssl.errors import NnsslError
from nnssl.files import write_json

log = logging.getLogger(__name__)

HEADERS = 50
"""Headers read of a target whose fingerprint does not record orientations."""


def plan_like(
    dataset_name: str,
    target: str | int,
    target_plans: str,
    plans_name: str,
    size: str,
    required: Sequence[str] = (),
) -> dict[str, Any]:
    """Make plans for a pool with a target's patch size, spacing, topology, normalisation and axis order.

    Intensity properties come from the target too, so that CT is clipped and scaled with the same numbers on both sides.
    Only the batch size is the pool's own business: the target's, capped for its size.

    Args:
        dataset_name: the pool's folder name below nnUNet_raw (its fingerprint must exist).
        target: dataset whose plans to follow (id or name).
        target_plans: name of the target's plans.
        plans_name: name for the pool's plans.
        size: preset that caps the batch size.
        required: configurations without which no plans are written.

    Raises:
        NnsslError: the channels of pool and target differ in number.
    """
    target_name = resolve_dataset(target, "nnUNet_preprocessed")
    theirs = read_plans(target_name, target_plans)
    root = nnunet_folder("nnUNet_preprocessed")
    pool_json = read_dataset_json(nnunet_folder("nnUNet_raw") / dataset_name / "dataset.json")
    target_json = read_dataset_json(root / target_name / "dataset.json")
    _check_channels(dataset_name, pool_json, target_name, target_json)
    fingerprint = read_fingerprint(root / dataset_name / FINGERPRINT)
    theirs_file = root / target_name / FINGERPRINT
    target_print = read_fingerprint(theirs_file) if theirs_file.is_file() else {}
    _compare_orientations(dataset_name, fingerprint, target_name, target_print)

    plans = copy.deepcopy(theirs)
    for own in ("nnssl", LEFT_OUT):  # the target's fine-tuning settings and its bad cases are not the pool's
        plans.pop(own, None)
    plans |= {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "image_reader_writer": fingerprint["nnssl"]["reader"],
        "nnssl_like": {"dataset_name": target_name, "plans_name": theirs["plans_name"]},
    }
    plans["configurations"] = {
        name: _pool_configuration(name, configuration, plans_name, size)
        for name, configuration in _resolved(theirs).items()
    }
    if any("CTNormalization" in c["normalization_schemes"] for c in plans["configurations"].values()):
        left_out = fingerprint["nnssl"]["not_hounsfield"]
        for name, reason in left_out.items():
            log.warning("left out %s: no Hounsfield units: %s", name, reason)
        plans |= {LEFT_OUT: left_out} if left_out else {}
    save_plans(plans, dataset_name, required)
    take_over_splits(nnunet_folder("nnUNet_raw") / dataset_name, root / dataset_name)
    pool_json["numTraining"] = len(fingerprint["nnssl"]["cases"]) - len(plans.get(LEFT_OUT, {}))
    write_json(pool_json, root / dataset_name / "dataset.json")
    return plans


def _pool_configuration(name: str, configuration: dict[str, Any], plans_name: str, size: str) -> dict[str, Any]:
    dim = len(configuration["patch_size"])
    batch_size = cap_batch_size(configuration["batch_size"], dim, size)
    return {**configuration, "data_identifier": f"{plans_name}_{name}", "batch_size": batch_size}


def _resolved(plans: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Configurations with inheritance resolved by nnU-Net; cascades need labels of a first stage and are left out."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(copy.deepcopy(plans))
    resolved = {}
    for name in plans["configurations"]:
        configuration = manager.get_configuration(name).configuration
        if configuration.get("previous_stage"):
            continue
        resolved[name] = {k: v for k, v in configuration.items() if k not in ("inherits_from", "next_stage")}
    return resolved


def _check_channels(pool: str, pool_json: dict[str, Any], target: str, target_json: dict[str, Any]) -> None:
    ours, theirs = list(pool_json["channel_names"].values()), list(target_json["channel_names"].values())
    if len(ours) != len(theirs):
        raise NnsslError(
            f"{pool} has {len(ours)} channel(s) {ours}, {target} has {len(theirs)} {theirs}: "
            "the same network needs the same number of channels"
        )
    if [n.casefold() for n in ours] != [n.casefold() for n in theirs]:
        log.warning(
            "channel names differ: %s has %s, %s has %s; the target's normalisation is used", pool, ours, target, theirs
        )


def _compare_orientations(pool: str, pool_print: dict[str, Any], target: str, target_print: dict[str, Any]) -> None:
    """nnU-Net reads images as they lie in the file: a body that lies otherwise there is another picture to a network."""
    ours, theirs = _orientations(pool, pool_print), _orientations(target, target_print)
    if not ours or not theirs:
        return
    strange = {o: n for o, n in ours.items() if o not in theirs}
    if strange:
        usual = max(theirs, key=lambda o: theirs[o])
        log.warning(
            "orientation differs: %s has %s, %s has %s; import the pool with --orientation %s, or the encoder learns "
            "bodies that lie otherwise than the target's",
            pool,
            _counted(ours),
            target,
            _counted(theirs),
            usual,
        )


def _orientations(dataset: str, fingerprint: dict[str, Any]) -> Counter[str]:
    """How many cases have which orientation; of a dataset that nnU-Net fingerprinted, by the headers of some cases."""
    if "measured" in fingerprint.get("nnssl", {}):
        found = [facts["orientation"] for facts in fingerprint["nnssl"]["measured"].values()]
        return Counter(o for o in found if o)
    raw = nnunet_folder("nnUNet_raw") / dataset
    if not (raw / "dataset.json").is_file():
        return Counter()
    cases = raw_cases(raw, read_dataset_json(raw / "dataset.json"))
    counts: Counter[str] = Counter()
    for case in cases[:: max(1, len(cases) // HEADERS)]:
        try:
            orientation = read_header(case.images[0]).orientation
        except (
            RuntimeError
        ) as error:  # SimpleITK's only exception; a broken file of the target is not our business here
            log.debug("%s: %s", case.name, error)
            continue
        if orientation:
            counts[orientation] += 1
    return counts


def _counted(orientations: Counter[str]) -> str:
    return ", ".join(f"{o} ({n} cases)" for o, n in orientations.most_common())
