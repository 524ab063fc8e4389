"""Study files: every mistake is one line that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnssl.errors import NnsslError
from nnssl.evaluate.study.commented import write_commented
from nnssl.evaluate.study.spec import read_study, write_study
from tests.evaluate.test_study_cells import study


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"control": "b"}, "control 'b' is none of inits: a, scratch"),
        ({"counts": [3, 3]}, "a number stands twice"),
        ({"counts": [0, 3]}, "counts begin at 1"),
        ({"steps": 11}, "must be a multiple of evaluate_every"),
        ({"test": ["t1"]}, "t1 is in training and in test"),
        ({"validation": ["e"]}, "e is in validation and in test"),
        ({"inits": {"a": {}, "scratch": {"schedule": "scratch"}}}, "needs init: a file of weights"),
        ({"inits": {"scratch": {"schedule": "scratch", "init": "x.pth"}}}, "schedule scratch takes no init"),
        ({"inits": {"scratch": {"schedule": "nnunet", "lr": 0.1}}}, "schedule nnunet takes no lr"),
        ({"inits": {"scratch": {"schedule": "scratch"}, "a/b": {"init": "x"}}}, "'a/b' cannot be the name"),
        ({"epochs": 3}, "epochs"),
        ({"unit": "person"}, "unit"),
    ],
)
def test_mistakes(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(NnsslError, match=None) as error:
        study(**changes)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_round_trip(tmp_path: Path) -> None:
    one = study()
    write_study(one, tmp_path / "s.yaml")
    assert read_study(tmp_path / "s.yaml") == one


def test_the_commented_file_says_the_same(tmp_path: Path) -> None:
    one = study(training=[f"a rather long name of a case, number {i}" for i in range(60)])
    write_commented(one, tmp_path / "s.yaml")
    assert read_study(tmp_path / "s.yaml") == one
    text = (tmp_path / "s.yaml").read_text()
    assert "# case, patient" in text
    assert max(map(len, text.splitlines())) <= 150


@pytest.mark.parametrize(
    "content", ["", "- a\n", "a: [", "name: x\n", "1: x\n", "inits: {1: 2}\n", f"name: {'9' * 5000}\n", "[" * 5000]
)
def test_files_that_are_no_study(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(NnsslError, match=r"s\.yaml"):
        read_study(tmp_path / "s.yaml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NnsslError, match="nnssl_study init"):
        read_study(tmp_path / "none.yaml")
