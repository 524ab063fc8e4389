"""How often each case of a pool is drawn: per-case weights, balance between subjects and datasets, datasets' weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nnssl.data.pool import Pool
from nnssl.errors import MissingError, NnsslError, shortened
from nnssl.files import read_rows

Balance = Literal["case", "subject", "dataset", "dataset+subject"]


@dataclass(frozen=True)
class WeightTable:
    """The rows of a table of weights.

    Attributes:
        path: where it was read.
        weights: (dataset, case) -> weight; the dataset is empty where the table has no such column.
    """

    path: Path
    weights: dict[tuple[str, str], float]


def read_weights(path: Path) -> WeightTable:
    """Read a CSV file with the columns `case`, `weight` and, where several datasets have cases of one name, `dataset`.

    Raises:
        NnsslError: a column is missing, a weight is no number of at least 0, or a case is named twice.
    """
    if not path.is_file():
        raise MissingError(f"case_weights {path} does not exist: give a CSV file with the columns case and weight")
    weights: dict[tuple[str, str], float] = {}
    columns, rows = read_rows(path, by_hand=True)
    if "case" not in columns or "weight" not in columns:
        raise NnsslError(f"{path} needs the columns 'case' and 'weight', it has: {shortened(columns, 20) or 'none'}")
    for row in rows:
        key = (row.get("dataset", ""), row["case"])
        if key in weights:
            raise NnsslError(f"{path}: case {key[1]} is there twice")
        weights[key] = _weight(row["weight"], path, key[1])
    return WeightTable(path, weights)


def _weight(text: str, path: Path, case: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise NnsslError(f"{path}, case {case}: weight '{text}' is not a number of at least 0")
    return value


def put_weights(pool: Pool, table: WeightTable | None, only: str) -> tuple[Pool, set[tuple[str, str]]]:
    """A pool with its cases' own weights by a table, 1 where it is silent; cases of weight 0 are left out.

    Args:
        pool: cases; those of a pool of one dataset do not name it.
        table: None = all 1.
        only: name of the dataset of such a pool.

    Returns:
        The pool, and the rows of the table that were used.

    Raises:
        NnsslError: a row without dataset fits cases of several, or nothing is left.
    """
    if table is None:
        return pool, set()
    weights, used = np.ones(len(pool)), set()
    owner: dict[str, str] = {}
    for i, case in enumerate(pool.cases):
        dataset = case.dataset or only
        key = next((k for k in ((dataset, case.name), ("", case.name)) if k in table.weights), None)
        if key is None:
            continue
        if not key[0] and owner.setdefault(case.name, dataset) != dataset:
            raise NnsslError(
                f"{table.path}: case {case.name} is in {owner[case.name]} and in {dataset}: add a column 'dataset' "
                "with these names"
            )
        weights[i] = table.weights[key]
        used.add(key)
    chosen = np.flatnonzero(weights)
    if not chosen.size:
        raise NnsslError(f"{table.path} gives every case the weight 0: at least one case must have more")
    cases = tuple(pool.cases[i] for i in chosen)
    return replace(pool, cases=cases, weights=tuple(weights[chosen].tolist())), used


def balanced(pool: Pool, balance: Balance = "case", dataset_weights: Mapping[str, float] | None = None) -> Pool:
    """A pool with the weights that its crops are drawn by, made from its cases' own.

    A case's weight is its own, times the share of its slices that thinning kept, so that thinning does not change the
    odds of the slices that stay. Then, as `balance` says, a subject (or a case of which no subject is known) gets as much
    as the mean of its cases' own weights, whatever their number; and a dataset as much as its weight says, whatever it
    holds. Without balance between datasets their weights multiply the cases'.

    Args:
        pool: from one dataset or joined.
        balance: what is drawn evenly: cases, subjects, datasets and in them cases, or datasets and in them subjects.
        dataset_weights: by the name of the dataset, above 0; None = all 1.
    """
    own = np.array(pool.weights or np.ones(len(pool)))
    weights = own.copy()
    if pool.kept is not None:
        weights *= pool.kept.counts() / [case.shape[0] for case in pool.cases]
    if "subject" in balance:
        parts = _parts([case.subject or i for i, case in enumerate(pool.cases)])
        weights *= _per_part(own, parts, mean=True) / _per_part(weights, parts)
    datasets = [case.dataset for case in pool.cases]
    if "dataset" in balance:
        weights /= _per_part(weights, _parts(datasets))
    if dataset_weights is not None:
        weights *= [dataset_weights[d] for d in datasets]
    alike = np.allclose(weights, weights[0], rtol=1e-9, atol=0)
    return replace(pool, weights=() if alike else tuple((weights / weights.mean()).tolist()))


def dataset_shares(pool: Pool) -> dict[str, float]:
    """Expected share of the crops that each dataset of a pool gives."""
    weights = np.array(pool.weights or np.ones(len(pool)))
    names = [case.dataset for case in pool.cases]
    sums = np.bincount(_parts(names), weights) / weights.sum()
    return dict(zip(dict.fromkeys(names), sums.tolist()))


def _parts(names: Sequence[Hashable]) -> np.ndarray:
    """(N,) number of the part that each case is in."""
    numbers: dict[Hashable, int] = defaultdict(lambda: len(numbers))
    return np.array([numbers[name] for name in names])


def _per_part(values: np.ndarray, parts: np.ndarray, mean: bool = False) -> np.ndarray:
    """(N,) for each case the sum (or mean) of `values` over its part."""
    sums = np.bincount(parts, values)
    return (sums / np.bincount(parts) if mean else sums)[parts]
