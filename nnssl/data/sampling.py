"""Which crop is crop number n: a pure function of (seed, n), so any run can be resumed or repeated bit for bit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnssl.data.passes import CasePasses
from nnssl.data.pool import Pool, body_positions
from nnssl.data.subjects import scans_of_subjects

TRAINING, VALIDATION = 0, 1
"""Streams of crops that never share a random number."""


@dataclass(frozen=True)
class CropPlace:
    """A case (position in the pool) and the first voxel of a crop in it; the crop may reach beyond the image."""

    case: int
    lower: tuple[int, int, int]


class CropSampler:
    """Places crops.

    Cases are drawn in shuffled passes over the pool (`nnssl.data.passes`): each is seen once before any is seen twice, or,
    with weights, as often as they say, so small pools are covered evenly and two crops of one batch rarely share a case.
    Within a case a share `body_share` of the crops is centred on a random body position, the rest lies anywhere; as in
    nnU-Net, an axis on which the image is smaller than the crop is padded on both sides. From a thinned pool, crops of
    one slice come from the kept slices only, each as likely as the others or as its share of the body positions.

    Args:
        pool: cases to draw from.
        size: (Z, Y, X) voxels of a crop; 2D crops have Z = 1.
        seed: of the run.
        stream: TRAINING or VALIDATION.
        body_share: share of body-centred crops, in [0, 1].
    """

    def __init__(self, pool: Pool, size: Sequence[int], seed: int, stream: int, body_share: float) -> None:
        self.pool = pool
        self.size = tuple(int(s) for s in size)
        self.body_share = body_share
        self._key = (seed, stream)
        if pool.kept is not None and self.size[0] != 1:
            raise ValueError("a thinned pool gives crops of one slice only")
        self._passes = CasePasses(len(pool), pool.weights, self._key)
        self._scans = scans_of_subjects([case.subject for case in pool.cases])

    def __call__(self, n: int) -> CropPlace:
        """Place of crop number n >= 0."""
        case = self._passes(n)
        rng = np.random.default_rng((*self._key, 1, n))
        shape = self.pool.cases[case].shape
        kept = None if self.pool.kept is None else self.pool.kept.of(case)
        body = body_positions(self.pool, case) if rng.random() < self.body_share else None
        if body is not None and kept is not None:
            body = body[np.isin(body[:, 0], kept)]
        centre = None if body is None or len(body) == 0 else body[int(rng.integers(len(body)))]
        lower = []
        for axis, (length, size) in enumerate(zip(shape, self.size)):
            padding = max(0, size - length)
            first, last = (-(padding // 2),) * 2 if padding else (0, length - size)
            thinned = kept if axis == 0 else None
            free = int(rng.integers(first, last + 1) if thinned is None else thinned[int(rng.integers(len(thinned)))])
            # always drawn: the stream does not depend on the branch
            lower.append(free if centre is None else int(np.clip(int(centre[axis]) - size // 2, first, last)))
        return CropPlace(case, (lower[0], lower[1], lower[2]))

    def partner(self, n: int, place: CropPlace) -> CropPlace:
        """The same place, relative to the image, in another scan of the subject of crop number n.

        A case that is its subject's only scan is its own partner.
        """
        case = self._partner_case(n, place.case)
        lower = []
        for low, length, other, size in zip(
            place.lower, self.pool.cases[place.case].shape, self.pool.cases[case].shape, self.size
        ):
            padding = max(0, size - other)
            first, last = (-(padding // 2),) * 2 if padding else (0, other - size)
            centre = (low + size / 2) / length * other
            lower.append(int(np.clip(round(centre - size / 2), first, last)))
        return CropPlace(case, (lower[0], lower[1], lower[2]))

    def cases(self, n: int, partner: bool) -> list[int]:
        """The case of crop number n and, if asked for, that of its partner, without placing them."""
        case = self._passes(n)
        return [case, self._partner_case(n, case)] if partner else [case]

    def _partner_case(self, n: int, case: int) -> int:
        scans = self._scans.get(case)
        if not scans:
            return case
        drawn = int(np.random.default_rng((*self._key, 2, n)).integers(len(scans) - 1))
        return scans[drawn + (drawn >= bisect_left(scans, case))]  # any but itself
