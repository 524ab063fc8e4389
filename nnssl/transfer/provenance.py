"""Where an encoder comes from: enough to repeat the run and to recognise its images, nothing about a patient."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nnssl.transfer.target import usual_orientation

PACKAGES = ("nnssl", "nnunetv2", "torch", "numpy", "dynamic-network-architectures", "batchgeneratorsv2", "blosc2")


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance(
    *,
    method: str,
    config: Mapping[str, Any],
    steps: int,
    plans: Mapping[str, Any],
    configuration: str,
    fold: str | int,
    fingerprint: Mapping[str, Any] | None,
    digests: Sequence[str],
    datasets: Mapping[str, int],
    other_scans: Sequence[str] | None = None,
    init: Mapping[str, Any] | None = None,
    channel_names: Sequence[str] = (),
) -> dict[str, Any]:
    """The provenance block of an encoder file.

    Args:
        method, config, steps: what was trained, how, and for how many optimiser steps.
        plans, configuration, fold: on which plans.
        fingerprint: of the run's own dataset; its per-case block is left out.
        digests: voxel digests of the training cases, for the leakage check.
        datasets: name -> number of training cases, the run's own dataset first.
        other_scans: voxel digests of further known scans of the training cases' subjects; None where no subject is known.
            Digests and no subjects, not even hashed: whoever has names could try them.
        init: of the encoder that the run started from, its `sha256` and its `provenance`. Its cases count as seen, so that
            the leakage check reaches back through every stage.
        channel_names: what the image channels show.
    """
    orientation = usual_orientation(fingerprint)
    earlier = init["provenance"] if init else {}
    seen = {*digests, *earlier.get("case_digests", ())}
    others = [scans for scans in (other_scans, earlier.get("subject_scan_digests")) if scans is not None]
    # our own entries name cases: the fingerprint's its digests, the plans' those to fine-tune on and those left out
    fingerprint, plans = (
        {k: v for k, v in (d or {}).items() if not k.startswith("nnssl")} for d in (fingerprint, plans)
    )
    return {
        "method": method,
        "config": dict(config),
        "seed": config.get("seed"),
        "steps": steps,
        "dataset_names": list(datasets),
        "cases": sum(datasets.values()),
        "cases_by_dataset": dict(datasets),
        "case_digests": sorted(seen),
        "subject_scan_digests": sorted(set().union(*others) - seen) if others else None,
        "init": {k: init[k] for k in ("sha256", "provenance")} if init else None,
        "configuration": configuration,
        "fold": fold,
        "channel_names": [str(name) for name in channel_names],
        "orientation": orientation,
        "plans": plans,
        "fingerprint": fingerprint,
        "versions": package_versions(),
    }
