"""How often the 95 % interval of a study holds the truth, by where chance comes from: the table of statistics.md.

python documentation/explanation/coverage.py [STUDIES]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from nnssl.evaluate.statistics import paired_difference

DRAWS = (2, 3, 5, 10)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Log-normal, as scores near their end are, with mean 0 and standard deviation 1."""
    values = rng.lognormal(0, 0.8, shape)
    mean, square = np.exp(0.32), np.exp(4 * 0.32)
    return (values - mean) / np.sqrt(square - mean**2)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal."""
    return rng.normal(size=shape)


Chance = tuple[int, tuple[float, float, float], Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]]
CHANCES: dict[str, Chance] = {
    "draws": (40, (1, 0, 0), normal),
    "40 cases": (40, (0, 1, 0), normal),
    "8 cases": (8, (0, 1, 0), normal),
    "draws and cases alike": (40, (1, 1, 0), normal),
    "which cases a draw is good at": (40, (0, 0, 1), normal),
    "draws, skewed": (40, (1, 0, 0), skewed),
    "40 cases, skewed": (40, (0, 1, 0), skewed),
    "8 cases, skewed": (8, (0, 1, 0), skewed),
}
"""Number of cases; standard deviations of the mean from draws, from cases, and from cases that are good in one draw only."""


def covered(draws: int, chance: Chance, studies: int) -> float:
    """Share of so many studies of nothing whose interval holds zero."""
    cases, shares, sample = chance
    rng, inside = np.random.default_rng(draws), 0
    of_draws, of_cases, of_both = np.array(shares) * np.sqrt([draws, cases, draws * cases])
    for study in range(studies):
        table = of_draws * sample(rng, (draws, 1)) + of_cases * sample(rng, (1, cases))
        table = table + of_both * sample(rng, (draws, cases))
        found = paired_difference(table, np.zeros_like(table), seed=study)
        inside += found.low <= 0 <= found.high
    return inside / studies


if __name__ == "__main__":
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"| what differs | {' | '.join(f'{n} draws' for n in DRAWS)} |\n|{'---|' * (len(DRAWS) + 1)}")
    for name, chance in CHANCES.items():
        shares = (f"{100 * covered(n, chance, studies):.0f} %" for n in DRAWS)
        print(f"| {name} | {' | '.join(shares)} |", flush=True)
