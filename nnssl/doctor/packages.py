"""Versions that belong together, and imports that work. Every import is tried in a process of its own: one may crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from nnssl.doctor.findings import Finding, ok, problem, warning

PYTHON = ((3, 10), (3, 13))
OLDEST = {"torch": (2, 6), "nnunetv2": (2, 8, 1), "timm": (1, 0, 15)}
BAD_TORCH = (2, 9)
"""nnU-Net forbids it: 3D convolutions with mixed precision are slow."""
SECONDS = 300
TRAINER = "nnUNetTrainer_SSLWarmup"


def numbers(text: str) -> tuple[int, ...]:
    """`2.15.0+cu126` -> (2, 15, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", text.partition("+")[0])[:3])


def versions() -> Iterator[Finding]:
    """Python and the packages that matter most."""
    here = sys.version_info[:2]
    says = ".".join(map(str, sys.version_info[:3]))
    if here < PYTHON[0]:
        yield problem("Python", says, "use Python 3.10 to 3.13")
    elif here > PYTHON[1]:
        yield warning("Python", f"{says} is newer than what nnssl was tried with", "use Python 3.10 to 3.13")
    else:
        yield ok("Python", says)
    for name, oldest in OLDEST.items():
        needed = ".".join(map(str, oldest))
        try:
            found = version(name)
        except PackageNotFoundError:
            yield problem(name, "is not installed", f"pip install '{name}>={needed}'")
            continue
        if numbers(found) < oldest:
            yield problem(name, f"{found} is older than {needed}", f"pip install '{name}>={needed}'")
        elif name == "torch" and numbers(found)[:2] == BAD_TORCH:
            yield problem(name, f"{found}: nnU-Net forbids 2.9", "pip install 'torch>=2.6,!=2.9.*'")
        else:
            yield ok(name, found)


def torchvision() -> Iterator[Finding]:
    """Builds of torch and torchvision: a CPU-only torch beside a CUDA torchvision cannot import timm."""
    try:
        of_torch, of_vision = version("torch"), version("torchvision")
    except PackageNotFoundError:
        return
    builds = [text.partition("+")[2] for text in (of_torch, of_vision)]
    mend = "install both from one index (pytorch.org): pip install --force-reinstall torch torchvision --index-url URL"
    if all(builds) and builds[0] != builds[1]:
        yield problem("torch and torchvision", f"are of different builds: {of_torch} and {of_vision}", mend)
        return
    answer = run_python("import torchvision.ops, torch; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)")
    if answer:
        yield problem("torch and torchvision", f"{of_torch} and {of_vision} do not work together: {answer}", mend)
    else:
        yield ok("torch and torchvision", f"{of_torch} and {of_vision}")


def imports() -> Iterator[Finding]:
    """What nnU-Net and nnssl import, in processes of their own."""
    for name, mend in (
        (
            "timm",
            "nnU-Net's look-up of trainers imports it: mend torch and torchvision first, then pip install -U timm",
        ),
        ("blosc2, SimpleITK, nibabel", "pip install --force-reinstall blosc2 SimpleITK nibabel"),
        ("nnssl.trainers", "pip install -e . in nnssl's folder; the message names what is missing"),
    ):
        answer = run_python(f"import {name}")
        yield problem(f"import {name}", answer, mend) if answer else ok(f"import {name}", "works")


def trainers() -> Iterator[Finding]:
    """Whether nnU-Net finds nnssl's trainers by its own look-up, with the environment as it is."""
    code = f"from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as f; f({TRAINER!r})"
    answer = run_python(code)
    mend = 'export nnUNet_extTrainer="$(nnssl_plugin_path)"; nnU-Net must be 2.8.1 or newer'
    if answer:
        yield problem("nnU-Net's look-up of trainers", answer, mend)
    else:
        yield ok("nnU-Net's look-up of trainers", f"finds {TRAINER}")


def run_python(code: str) -> str:
    """Run code in a process of its own; empty, or the last line of what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS} s"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"the process ended with code {done.returncode}"
