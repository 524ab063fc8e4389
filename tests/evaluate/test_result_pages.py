"""What the pages of results say are the numbers of the studies that are kept beside them, as the code of today counts."""

from __future__ import annotations

import re
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from nnssl.evaluate.report import words
from nnssl.evaluate.report.collect import read_results
from nnssl.evaluate.report.compare import difference
from nnssl.evaluate.statistics import Estimate, spread
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "documentation" / "results"
STUDIES = sorted(path.parent for path in RESULTS.rglob("study.json"))
ELSEWHERE = {"full_resolution": "recipe"}
"""Folders whose studies are on another page."""
INTERVAL = re.compile(r"[+-]\d\.\d{3} \[([+-]\d\.\d{3}), ([+-]\d\.\d{3})\]")
SPREAD = re.compile(r"\d\.\d{3} ± \d\.\d{3}")


def page_of(study: Path) -> str:
    name = study.relative_to(RESULTS).parts[0]
    return ELSEWHERE.get(name, name)


PAGES = sorted({page_of(study) for study in STUDIES})


@cache
def numbers(folder: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Means with their spread and paired differences with their interval; and which of them may stand in one row."""
    study = read_results(folder)
    metric = study.measures.main
    means, rows = set(), set()
    for count in study.config.counts:
        of = {init: [c.means[metric] for c in study.of(init, count)] for init in study.inits}
        shown = {init: words.plus_minus(float(np.mean(v)), spread(v)) for init, v in of.items() if v}
        means |= set(shown.values())
        for one, other in combinations(shown, 2):
            d = difference(study, one, other, count, metric)
            mirrored = Estimate(-d.mean, -d.high, -d.low, d.draws)
            rows |= {(shown[one], words.interval(d)), (shown[other], words.interval(mirrored))}
    return means | {interval for _, interval in rows}, rows


@pytest.mark.parametrize("page", [*PAGES, "claims"])
def test_a_page_says_what_its_studies_say(page: str) -> None:
    own = [study for study in STUDIES if page_of(study) == page] or STUDIES
    known, rows = set().union(*(numbers(s)[0] for s in own)), set().union(*(numbers(s)[1] for s in own))
    text = (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    said = [*(m.group() for m in INTERVAL.finditer(text)), *SPREAD.findall(text)]
    assert said
    assert [number for number in said if number not in known] == []
    head = ""
    for line in text.splitlines():
        head = "" if not line.startswith("|") else head or line
        mean = SPREAD.search(line)
        for interval in INTERVAL.finditer(line) if head and mean else ():
            shown = interval.group()
            if "above it by" in head:  # a table of controls, with what another one gains over them
                assert any(gain == shown for _, gain in rows), line
            else:
                assert (mean.group(), shown) in rows, line


def test_kept_studies_name_no_folder_of_a_machine() -> None:
    """Only nnU-Net's own: `$nnUNet_results/...`."""
    for study in STUDIES:
        for path in (
            *study.glob("*.json"),
            *study.glob("*.yaml"),
            *study.rglob("cell.json"),
            *study.rglob("load_report.json"),
        ):
            assert not re.search(r"(?<![\w$}.])/\w+/", path.read_text(encoding="utf-8")), path


def test_bold_is_what_excludes_zero() -> None:
    """In tables of five draws: all that is, and nothing else; an end that is zero in the digits shown does not."""
    marked = 0
    for page in PAGES:
        for line in (RESULTS / f"{page}.md").read_text(encoding="utf-8").splitlines():
            found = INTERVAL.search(line)
            if not (found and line.startswith("|") and "| 5 |" in line.removeprefix("| 5 |").removeprefix("| 5")):
                continue
            excludes = float(found.group(1)) > 0 or float(found.group(2)) < 0
            assert (f"**{found.group()}**" in line) == excludes, line
            marked += excludes
    assert marked > 15
