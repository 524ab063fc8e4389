"""Hashes of all slices of a pool, computed once and kept beside its index; the thinned pool and its report."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.data.npz_files import load_npz
from nnssl.data.parallel import run_cases
from nnssl.data.pool import Pool
from nnssl.data.store import open_case
from nnssl.data.thinning import KeptSlices, keep_apart, slice_hash
from nnssl.errors import NnsslError
from nnssl.files import atomic_path

log = logging.getLogger(__name__)

FORMAT = 1
KnownSlices = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
"""(dataset, case name) -> hashes and spread of the case's slices. The dataset is empty in a pool of one dataset."""


@dataclass(frozen=True)
class SliceHashes:
    """What is known of the slices of a pool; arrays run over all slices of all cases, in pool order.

    Attributes:
        starts: (N + 1,) int64; case i owns [starts[i], starts[i + 1]).
        hashes: uint64.
        spread: float32, standard deviation of the slice, the largest of its channels.
    """

    starts: np.ndarray
    hashes: np.ndarray
    spread: np.ndarray


def hashes_path(root: Path, data_identifier: str) -> Path:
    """Where a pool's slice hashes lie: beside its index."""
    return root / f"{data_identifier}_slices.npz"


def slice_hashes(pool: Pool, path: Path, processes: int, compute: bool = True) -> SliceHashes:
    """Hashes of a pool's slices, from their file, or computed and written there.

    Args:
        pool: of one dataset.
        path: see `hashes_path`.
        processes: worker processes.
        compute: False = another process does it: wait for its file. A launcher ends its processes together, so a failure
            there ends the waiting.
    """
    found = _read(path, pool)
    while found is None and not compute and os.access(path.parent, os.W_OK):  # else every process does it for itself
        time.sleep(1)
        found = _read(path, pool)
    if found is None:
        found = _compute(pool, processes)
        _write(found, pool, path)
    return found


def thin(pool: Pool, known: KnownSlices, distance: int, least: float) -> Pool:
    """Drop empty slices and, within each subject, slices that resemble a kept one; a case with none left is dropped.

    Args:
        pool: cases of one or several datasets.
        known: of every case of the pool.
        distance: bits in which two slices must differ more.
        least: standard deviation below which a slice is empty.
    """
    cases_of: dict[str, list[int]] = defaultdict(list)
    for i, case in enumerate(pool.cases):
        cases_of[case.subject or f"\0{i}"].append(i)
    kept: dict[int, np.ndarray] = {}
    for members in cases_of.values():
        parts = [known[pool.cases[i].dataset, pool.cases[i].name] for i in members]
        owner = np.concatenate([np.full(len(h), i) for i, (h, _) in zip(members, parts)])
        number = np.concatenate([np.arange(len(h)) for h, _ in parts])
        filled = np.flatnonzero(np.concatenate([spread for _, spread in parts]) >= least)
        like = keep_apart(np.concatenate([h for h, _ in parts])[filled], distance)
        chosen = filled[like == np.arange(len(filled))]
        for i in members:
            kept[i] = number[chosen[owner[chosen] == i]]
    left = [i for i in range(len(pool)) if len(kept[i])]
    if not left:
        raise NnsslError("thin_slices leaves no slice: every slice of the pool is empty")
    return replace(
        pool,
        cases=tuple(pool.cases[i] for i in left),
        weights=tuple(pool.weights[i] for i in left) if pool.weights else (),
        kept=KeptSlices.of_cases([kept[i] for i in left]),
    )


def thinning_report(
    before: Pool,
    after: Pool,
    known: KnownSlices,
    distance: int,
    least: float,
) -> dict[str, Any]:
    """What thinning did, as a whole and per case."""
    assert after.kept is not None
    kept = {(c.dataset, c.name): len(after.kept.of(i)) for i, c in enumerate(after.cases)}
    rows, totals = [], dict.fromkeys(("slices", "kept", "empty", "near_duplicates"), 0)
    for case in before.cases:
        key = (case.dataset, case.name)
        hashes, spread = known[key]
        row = {"slices": len(hashes), "kept": kept.get(key, 0), "empty": int((spread < least).sum())}
        row["near_duplicates"] = row["slices"] - row["kept"] - row["empty"]
        totals = {k: totals[k] + row[k] for k in totals}
        rows.append({**({"dataset": case.dataset} if case.dataset else {}), "case": case.name, **row})
    return {"thin_slices": distance, "empty_below": least, **totals, "cases_left": len(after), "cases": rows}


def known_slices(pool: Pool, dataset: str, found: SliceHashes) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(dataset, case name) -> hashes and spread, for `thin`."""
    spans = list(zip(found.starts[:-1], found.starts[1:]))
    return {(dataset, c.name): (found.hashes[a:b], found.spread[a:b]) for c, (a, b) in zip(pool.cases, spans)}


def _of_case(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and spread of the slices of one stored case."""
    data = np.asarray(open_case(Path(path))[:]).swapaxes(0, 1)  # as a whole: a stored chunk spans several slices
    hashes = np.array([slice_hash(image) for image in data], np.uint64)
    spread = np.array([image.astype(np.float32).std(axis=(1, 2)).max() for image in data], np.float32)
    return hashes, spread


def _compute(pool: Pool, processes: int) -> SliceHashes:
    paths = [str(pool.image_path(i)) for i in range(len(pool))]
    results, failures = run_cases(_of_case, paths, processes, "slice hashes")
    if failures:
        first = min(failures)
        raise NnsslError(
            f"{len(failures)} case(s) could not be read for thin_slices, the first is {pool.cases[first].name}: "
            f"{failures[first]}"
        )
    starts = np.concatenate([[0], np.cumsum([len(results[i][0]) for i in range(len(pool))])]).astype(np.int64)
    hashes, spread = (np.concatenate([results[i][k] for i in range(len(pool))]) for k in (0, 1))
    return SliceHashes(starts, hashes, spread)


def _write(found: SliceHashes, pool: Pool, path: Path) -> None:
    if not os.access(path.parent, os.W_OK):
        log.warning("%s cannot be written: the slice hashes are not kept for the next run", path)
        return
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            format=FORMAT,
            made_from=_made_from(pool),
            starts=found.starts,
            hashes=found.hashes,
            spread=found.spread,
        )


def _read(path: Path, pool: Pool) -> SliceHashes | None:
    """The kept hashes, if there are any and they are of these very cases."""
    if not path.is_file():
        return None
    try:
        content = load_npz(path)
        if int(content["format"]) != FORMAT or str(content["made_from"]) != _made_from(pool):
            return None
        found = SliceHashes(content["starts"], content["hashes"], content["spread"])
        if found.starts.shape != (len(pool) + 1,) or not found.hashes.shape == found.spread.shape == (
            found.starts[-1],
        ):
            raise ValueError("its arrays do not belong together")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        log.warning("%s cannot be read (%s): computing the slice hashes again", path, error)
        return None
    return found


def _made_from(pool: Pool) -> str:
    """Names, shapes and digests of the cases, what they were preprocessed from and how, and when they were written."""
    newest = max(int(pool.image_path(i).stat().st_mtime_ns) for i in range(len(pool)))
    return f"{pool.origin} {pool.signature} {newest}"
