"""Which case is drawn as number n: passes over the pool that are shuffled, repeatable, and as even as whole numbers allow.

With equal weights a pass is a permutation: every case once. With weights w a pass of L draws (L = number of cases) is a
systematic sample (Madow 1949): cases are laid side by side on a line of length L, each as long as its expected count
e_i = L w_i / sum(w), and the points k + u, k = 0 ... L - 1, pick the cases they fall on. So each case is drawn floor(e_i)
or ceil(e_i) times in every pass, and so is every run of neighbouring cases: a subject, a dataset. The offset u moves by
the golden ratio from pass to pass, the most even sequence of its kind: after T passes a count differs from T e_i by
the logarithm of T, where independent draws would differ by its square root.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

GOLDEN = (5**0.5 - 1) / 2
REMEMBERED = 3  # a batch may lie across the border of two passes


class CasePasses:
    """Draw number n -> case, a pure function of (key, n). Start-up is linear in the number of cases.

    Args:
        count: number of cases.
        weights: relative frequencies above 0, one per case; empty = all alike.
        key: of the random numbers: seed and stream.
    """

    def __init__(self, count: int, weights: Sequence[float], key: tuple[int, int]) -> None:
        self.count = count
        self._key = key
        self._ends: np.ndarray | None = None
        if weights:
            ends = np.cumsum(np.asarray(weights, dtype=np.float64))
            self._ends = ends * (count / ends[-1])
        self._passes: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, n: int) -> int:
        """The case of draw number n >= 0."""
        turn, position = divmod(n, self.count)
        return int(self._pass(turn)[position])

    def _pass(self, turn: int) -> np.ndarray:
        if turn not in self._passes:
            self._passes[turn] = self._make_pass(turn)
            if len(self._passes) > REMEMBERED:
                self._passes.popitem(last=False)
        return self._passes[turn]

    def _make_pass(self, turn: int) -> np.ndarray:
        rng = np.random.default_rng((*self._key, 0, turn))
        order = rng.permutation(self.count)
        if self._ends is None:
            return order
        points = np.arange(self.count) + (0.5 + turn * GOLDEN) % 1.0
        chosen = np.searchsorted(self._ends, points, side="right")
        return np.minimum(chosen, self.count - 1)[order]  # rounding must not point behind the last case
