"""The house stays as the design draws it: one direction of imports, small files, no paths of a machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def test_imports_go_one_way(tmp_path: Path) -> None:
    """import-linter reads folders, so it gets planners/ and trainers/ where they are installed, by links."""
    package = tmp_path / "nnssl"
    package.mkdir()
    for entry in (*(REPOSITORY / "nnssl").iterdir(), REPOSITORY / "planners", REPOSITORY / "trainers"):
        (package / entry.name).symlink_to(entry)
    command = [
        sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--config", str(REPOSITORY / "pyproject.toml"), "--no-cache",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_methods_work_without_nnunet() -> None:
    """A bare GPU box has torch and dynamic_network_architectures only."""
    block = "\n".join(f"sys.modules[{m!r}] = None" for m in ("nnunetv2", "batchgenerators", "blosc2", "SimpleITK"))
    code = f"import sys\n{block}\nimport nnssl.methods, nnssl.networks, nnssl.views, nnssl.losses"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def sources() -> list[Path]:
    return [p for top in ("nnssl", "planners", "trainers", "tests") for p in (REPOSITORY / top).rglob("*.py")]


def test_files_stay_small() -> None:
    long = {p.name: n for p in sources() if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_every_installed_package_is_listed() -> None:
    """An explicit package list forgets nothing."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "(nnssl[\w.]*)",$', text, re.MULTILINE))
    packages = [p.parent.relative_to(REPOSITORY / "nnssl").parts for p in (REPOSITORY / "nnssl").rglob("__init__.py")]
    there = {".".join(("nnssl", *parts)) for parts in packages}
    assert there | {"nnssl.planners", "nnssl.trainers"} == listed
