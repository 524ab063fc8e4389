"""`nnssl_import --acdc`: two datasets from ACDC as published."""

from __future__ import annotations

import argparse
import logging
import re
from collections import defaultdict
from collections.abc import Sequence

from nnssl.errors import NnsslError

log = logging.getLogger(__name__)

USED = {"acdc", "dataset_id", "pool", "name", "frames", "np", "debug"}
SHOWN = 3
"""So many lines that differ in numbers only are printed; all are in the report."""


def run_acdc(a: argparse.Namespace, defaults: argparse.Namespace, frames: int | None) -> None:
    """Import ACDC as the arguments of `nnssl_import` say.

    Args:
        a: the arguments.
        defaults: what they are when nothing is given.
        frames: of each cine scan; None = all.
    """
    from nnssl.data.importing.acdc import import_acdc
    from nnssl.data.importing.pool_folder import check_name
    from nnssl.data.importing.report import REPORT

    useless = [key for key, value in vars(a).items() if key not in USED and value != getattr(defaults, key)]
    if useless:
        flags = ", ".join("SOURCE" if key == "sources" else f"--{key.replace('_', '-')}" for key in useless)
        raise NnsslError(f"--acdc goes with -d, --pool, -n, --frames and -np; leave out {flags}")
    if a.pool == a.dataset_id:
        raise NnsslError(f"-d and --pool are both {a.pool}: give two numbers")
    name = a.name or "ACDC"
    check_name(name)
    labelled = f"Dataset{a.dataset_id:03d}_{name}"
    pool = None if a.pool is None else f"Dataset{a.pool:03d}_{name}cine"
    made = import_acdc(a.acdc, labelled, pool, frames, a.np)
    for dataset, lines in made.datasets.items():
        log.info("%s", "\n  ".join([dataset, *lines]))
    copies = [(case, f"has the same voxels as {of}") for case, of in made.copies]
    _show("left out", [*made.left_out, *copies], REPORT)
    _show("notes", made.notes, REPORT)
    log.info("next: nnssl_plan_and_preprocess -d %d -pl nnsslPlannerACDC", a.dataset_id)
    if a.pool is not None:
        log.info("then: nnssl_plan_and_preprocess -d %d --like %d", a.pool, a.dataset_id)


def _show(title: str, entries: Sequence[tuple[str, str]], report: str) -> None:
    """Print what was left out or noted; of lines that differ in numbers only, a few."""
    if not entries:
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for where, text in entries:
        alike[re.sub(r"[\d.]+", "0", text)].append(f"  {where}: {text}")
    log.info("%s (%d, all of them in %s):", title, len(entries), report)
    for lines in alike.values():
        for line in lines[:SHOWN]:
            log.info("%s", line)
        if len(lines) > SHOWN:
            log.info("  ... and %d more like these", len(lines) - SHOWN)
