"""The study files beside the documented results are studies that this version reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnssl.evaluate.study.spec import read_study
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "documentation" / "results"
FILES = sorted(RESULTS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(RESULTS)))
def test_study_files_of_results_are_read(path: Path) -> None:
    study = read_study(path)
    assert study.control in study.inits
    assert not set(study.test) & {*study.training, *study.validation}
    for init in study.inits.values():  # seeds are put in by name
        assert init.init is None or init.init.format(seed=0, count=1)


def test_there_are_some() -> None:
    assert len(FILES) >= 10
