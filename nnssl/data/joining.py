"""One pool from several datasets: cases that are in two of them count once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nnssl.data.pool import Pool, PoolCase


def join_pools(pools: Mapping[str, Pool], folder: Path) -> tuple[Pool, dict[str, int]]:
    """Put pools into one, in the given order; of cases with the same voxels the first is kept.

    Args:
        pools: dataset name -> its pool, a folder of that name below `folder` being its root.
        folder: nnUNet_preprocessed.

    Returns:
        The pool, and for each dataset how many of its cases are left out because an earlier one has them.
    """
    seen: dict[str, str] = {}
    cases: list[PoolCase] = []
    doubled = dict.fromkeys(pools, 0)
    for dataset, pool in pools.items():
        for case in pool.cases:
            if case.digest and seen.setdefault(case.digest, dataset) != dataset:
                doubled[dataset] += 1
                continue
            subject = f"{dataset}/{case.subject}" if case.subject else ""  # patient 1 here is not patient 1 there
            cases.append(replace(case, folder=f"{dataset}/{case.folder}", subject=subject, dataset=dataset))
    return Pool(folder, tuple(cases)), doubled


def without(pool: Pool, held_out: Pool) -> tuple[Pool, int]:
    """A pool without the cases whose voxels another one holds, and how many these were.

    A dataset's validation case may be another's training case.
    """
    digests = set(held_out.digests)
    cases = tuple(c for c in pool.cases if not c.digest or c.digest not in digests)
    return replace(pool, cases=cases), len(pool) - len(cases)
