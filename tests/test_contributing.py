"""The example in CONTRIBUTING.md, taken from the page and installed as a package of someone else's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's only block of code in a language."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What pip would leave behind after installing the example."""
    site = tmp_path / "site"
    name, entry = re.findall(r'\[project\.entry-points\."nnssl\.methods"\]\n(\w+) = "([\w.:]+)"', block("toml"))[0]
    module = entry.split(":")[0]
    information = site / f"{module}-0.1.0.dist-info"
    information.mkdir(parents=True)
    (site / f"{module}.py").write_text(block("python"))
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text(f"[nnssl.methods]\n{name} = {entry}\n")
    return site


def command(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "nnssl.cli.pretrain", "902", "3d_fullres", "-device", "cpu"]
    return subprocess.run([*start, *arguments], capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_a_method_of_another_package_pretrains(pretraining: Path, package: Path, tmp_path: Path) -> None:
    quick = ("--epochs", "1", "--iterations", "2", "--set", "val_iterations=1", "--batch-size", "2")
    done = command(package, "-m", "super_resolution", *quick, "--set", "factor=3")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = tmp_path / "results" / "Dataset902_Pool"
    folder = runs / "nnsslTrainer_SuperResolution__nnsslPlans__3d_fullres" / "fold_all"
    assert (folder / "nnunet_init.pth").is_file() and (folder / "preview.png").is_file()
    refused = command(package, "-m", "super_resolution", *quick, "--set", "factor=1", "--name", "wrong")
    assert refused.returncode == 2
    assert "factor=1" in refused.stderr and "Traceback" not in refused.stderr
    summed = command(package, "-m", "super_resolution+simclr", *quick)
    assert summed.returncode == 0, summed.stdout + summed.stderr
    assert (runs / "nnsslTrainer_SuperResolutionPlusSimCLR__nnsslPlans__3d_fullres").is_dir()


def test_nnunet_finds_the_trainer_of_another_package(package: Path) -> None:
    code = "from nnssl.trainers import nnsslTrainer_SuperResolution as t; print(t.method_name)"
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip().endswith("super_resolution"), done.stdout + done.stderr


def test_the_example_passes_the_linter(package: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    file = package / "super_resolution_for_nnssl.py"
    done = subprocess.run(
        [ruff, "check", "--config", REPOSITORY / "pyproject.toml", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
