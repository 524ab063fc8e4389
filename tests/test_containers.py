"""The container recipes copy all that the package needs, and call commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib

FOLDER = REPOSITORY / "documentation" / "how-to" / "container"


def copied(recipe: str) -> set[str]:
    text = (FOLDER / recipe).read_text(encoding="utf-8")
    if recipe == "Dockerfile":
        return {word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]}
    files = text.split("%files\n")[1].split("\n\n")[0]
    return {line.split()[0] for line in files.splitlines()}


@pytest.mark.parametrize("recipe", ["Dockerfile", "nnssl.def"])
def test_everything_that_is_installed_is_copied(recipe: str) -> None:
    names = copied(recipe)
    assert all((REPOSITORY / name).exists() for name in names)
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 has no reader for pyproject.toml")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    assert folders | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} == names


@pytest.mark.parametrize("recipe", ["Dockerfile", "nnssl.def"])
def test_commands_and_python_exist(recipe: str) -> None:
    text = (FOLDER / recipe).read_text(encoding="utf-8")
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for command in set(re.findall(r"\bnnssl_[a-z_]+\b", text)) - {"nnssl_plugin"}:
        assert re.search(rf"^{command} = ", pyproject, re.M), command
    minor = int(re.search(r"python:3\.(\d+)-", text)[1])  # type: ignore[index]
    assert 10 <= minor <= 13


def test_the_definitions_script_is_valid() -> None:
    text = (FOLDER / "nnssl.def").read_text(encoding="utf-8")
    post = text.split("%post\n")[1].split("\n%")[0]
    subprocess.run(["sh", "-n"], input=post, text=True, check=True)


def test_the_dockerfile_is_well_formed() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        ["hadolint", "--ignore", "DL3008", str(FOLDER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
