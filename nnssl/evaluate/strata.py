"""An order of patients in which every beginning shows the classes in their shares: nested, stratified draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnssl.evaluate.labels import Kind

BINS = 4
"""Quartiles of a quantity are its strata."""


def strata_of(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Number of the stratum of each value: its class, or its quartile."""
    if kind == "classes":
        return np.unique(values, return_inverse=True)[1]
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, values, side="right")


def stratified_order(groups: Sequence[str], strata: np.ndarray, seed: int) -> list[str]:
    """Groups in the order of a seed; a smaller draw is the beginning of a larger one.

    The first ones show one stratum each, the most frequent first; then the stratum that is furthest behind its share comes
    next. Which group of a stratum is at random.

    Args:
        groups: of each case.
        strata: of each case; a group with several has the one that most of its cases have.
        seed: of the order.
    """
    names = sorted(set(groups))
    place = {name: i for i, name in enumerate(names)}
    count = int(strata.max()) + 1
    table = np.zeros((len(names), count), int)
    np.add.at(table, (np.array([place[g] for g in groups]), strata), 1)
    own = table.argmax(1)
    rng = np.random.default_rng(seed)
    queues = [[names[i] for i in rng.permutation(np.flatnonzero(own == s))] for s in range(count)]
    sizes = np.array([len(q) for q in queues], float)
    taken = np.zeros(count)
    order: list[str] = []
    while len(order) < len(names):
        behind = sizes / sizes.sum() * (len(order) + 1) - taken
        behind += np.where((taken == 0) & (sizes > 0), len(names), 0)  # every stratum once, before any share counts
        behind[taken >= sizes] = -np.inf
        chosen = int(behind.argmax())
        order.append(queues[chosen][int(taken[chosen])])
        taken[chosen] += 1
    return order
