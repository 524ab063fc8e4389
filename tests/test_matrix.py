""".ci/matrix finds the interpreters that are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def matrix(tmp_path: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "MATRIX_FOLDER": str(tmp_path / "environments"),
    }
    environment["COMBINATIONS"] = "3.99|nnunetv2|torch"
    done = subprocess.run(
        [str(REPOSITORY / ".ci" / "matrix")], capture_output=True, text=True, env=environment, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("chosen", [True, False])
def test_pyenvs_interpreters_are_found(tmp_path: Path, chosen: bool) -> None:
    """pyenv puts a command for every version on the PATH; those of versions that are not chosen only complain."""
    python = 'echo "$0" "$@" >>"$(dirname "$0")/asked"; [ "$1" = -c ]'
    script(tmp_path / "bin" / "pyenv", f"echo {tmp_path}/pyenv")
    script(tmp_path / "bin" / "python3.99", python if chosen else "exit 127")
    where = tmp_path / ("bin" if chosen else "pyenv/versions/3.99.4/bin")
    script(where / "python3.99", python)
    assert "FAILED: Python 3.99" in matrix(tmp_path), "it makes no environment"
    assert (where / "asked").read_text().splitlines()[-1] == f"{where}/python3.99 -m venv {tmp_path}/environments/3.99"


def test_a_python_that_is_nowhere_is_named(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "pyenv", f"echo {tmp_path}/pyenv")
    assert "skipped: Python 3.99, nnunetv2, torch (no python3.99" in matrix(tmp_path)
