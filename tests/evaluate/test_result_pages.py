"""What the pages of results say are the numbers of the studies that are kept beside them, as the code of today counts."""

from __future__ import annotations

import re
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

from nnssl.evaluate.report import words
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.report.compare import compare, difference
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "documentation" / "results"
STUDIES = sorted(path.parent for path in RESULTS.rglob("study.json"))
PAGES = sorted(
    {RESULTS / f"{study.relative_to(RESULTS).parts[0]}.md" for study in STUDIES} - {RESULTS / "full_resolution.md"}
)
INTERVAL = re.compile(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]")
SPREAD = re.compile(r"\d\.\d{3} ± \d\.\d{3}")


@cache
def numbers(folder: Path) -> set[str]:
    """Every mean with its spread, and every paired difference with its interval, of any two initialisations."""
    study = read_results(folder)
    metric = study.measures.main
    found = {words.plus_minus(c.score[metric], c.sd[metric]) for c in compare(study, metric)}
    for count in study.config.counts:
        for one, other in permutations(study.inits, 2):
            found.add(words.interval(difference(study, one, other, count, metric)))
    return found


def said(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [*INTERVAL.findall(text), *SPREAD.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_says_what_its_studies_say(page: Path) -> None:
    own = [study for study in STUDIES if study.relative_to(RESULTS).parts[0] == page.stem]
    own += [s for s in STUDIES if page.stem == "recipe" and s.relative_to(RESULTS).parts[0] == "full_resolution"]
    known = set().union(*map(numbers, own))
    assert own and len(said(page)) > 3
    assert [number for number in said(page) if number not in known] == []


@pytest.mark.parametrize("page", [RESULTS / "claims.md"], ids=lambda p: p.stem)
def test_a_summary_says_what_some_study_says(page: Path) -> None:
    known = set().union(*map(numbers, STUDIES))
    assert len(said(page)) > 8
    assert [number for number in said(page) if number not in known] == []
