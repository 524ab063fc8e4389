"""A dataset of nnU-Net's, narrowed to some slices of its cases: for 2D trainings with few labelled slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class SlicedCases:
    """Like nnU-Net's dataset, but each case shows its chosen slices only.

    Args:
        dataset: nnU-Net's.
        slices: case -> numbers of the slices along the first spatial axis of the preprocessed case.
    """

    def __init__(self, dataset: Any, slices: Mapping[str, Sequence[int]]) -> None:
        self._dataset = dataset
        self._slices = {case: np.asarray(numbers, int) for case, numbers in slices.items()}
        self.identifiers = [case for case in dataset.identifiers if case in slices]

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        """(C, slices, Y, X) image and label, label of the previous stage, and properties that fit them."""
        data, seg, previous, properties = self._dataset.load_case(identifier)
        chosen = self._slices[identifier]
        narrowed = [None if a is None else np.stack([a[:, z] for z in chosen], axis=1) for a in (data, seg, previous)]
        return (*narrowed, {**properties, "class_locations": _relocated(properties["class_locations"], chosen)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


def _relocated(locations: Mapping[Any, Any], chosen: np.ndarray) -> dict[Any, Any]:
    """Positions (N, 4) of channel, slice, row, column: those in the chosen slices, slices counted anew."""
    found = {}
    for label, positions in locations.items():
        if len(positions) == 0:
            found[label] = positions
            continue
        positions = np.asarray(positions)
        inside = positions[np.isin(positions[:, 1], chosen)].copy()
        inside[:, 1] = np.searchsorted(chosen, inside[:, 1])
        found[label] = inside if len(inside) else []
    return found
