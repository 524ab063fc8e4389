"""How often the 95 % interval of a study holds the truth, by where chance comes from: the table of statistics.md.

python documentation/explanation/coverage.py [STUDIES]
"""

from __future__ import annotations

import sys

import numpy as np

from nnssl.evaluate.statistics import paired_difference

CASES = 40
CHANCES = {"draws": (1, 0, 0), "cases": (0, 1, 0), "both alike": (1, 1, 0), "each draw's cases": (0, 0, 1)}
"""Standard deviations of the mean from draws, from cases, and from cases that are good in one draw and bad in another."""


def covered(draws: int, chances: tuple[float, float, float], studies: int) -> float:
    """Share of so many studies of nothing whose interval holds zero."""
    rng, inside = np.random.default_rng(draws), 0
    of_draws, of_cases, of_both = (np.array(chances) * np.sqrt([draws, CASES, draws * CASES])).tolist()
    for study in range(studies):
        table = rng.normal(0, of_draws, (draws, 1)) + rng.normal(0, of_cases, (1, CASES))
        table = table + rng.normal(0, of_both, (draws, CASES))
        found = paired_difference(table, np.zeros_like(table), seed=study)
        inside += found.low <= 0 <= found.high
    return inside / studies


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print("| what differs | 2 draws | 3 draws | 5 draws | 10 draws |\n|---|---|---|---|---|")
    for name, chances in CHANCES.items():
        print(
            f"| {name} | " + " | ".join(f"{100 * covered(n, chances, studies):.0f} %" for n in (2, 3, 5, 10)) + " |",
            flush=True,
        )
