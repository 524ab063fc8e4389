"""All checks in order; one that fails itself is a finding, too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from nnssl.data.cpus import usable_cpus
from nnssl.doctor import data, devices, locks, machine, packages, variables
from nnssl.doctor.findings import Finding, problem

Check = Callable[[], Iterator[Finding]]


def examine(datasets: list[str], quick: bool = False) -> Iterator[Finding]:
    """Findings as they come.

    Args:
        datasets: whose preprocessed files are read as a whole.
        quick: leave out what takes more than a second: imports in processes of their own, trial convolutions and reading.

    Raises:
        NnsslError: there is no such dataset.
    """
    checks: list[Check] = [
        variables.folders,
        variables.space,
        locks.locks,
        variables.plugin,
        partial(variables.threads, usable_cpus()),
        variables.texts,
        packages.versions,
        machine.processors,
        machine.open_files,
        machine.shared_memory,
        machine.compiler,
    ]
    if not quick:
        checks += [packages.torchvision, packages.imports]
        checks += [packages.trainers] if os.environ.get("nnUNet_extTrainer") else []
        checks += [devices.gpus, devices.precision, partial(machine.store_speed, _place())]
    checks += [partial(data.stored_cases, name) for name in map(data.find, datasets)]
    for check in checks:
        yield from _guarded(check)


def _place() -> Path:
    """Where crops are read from in training, if it can be written to."""
    import tempfile

    folder = Path(os.environ.get("nnUNet_preprocessed", "")).expanduser()
    usable = bool(os.environ.get("nnUNet_preprocessed")) and folder.is_dir() and os.access(folder, os.W_OK)
    return folder if usable else Path(tempfile.gettempdir())


def _guarded(check: Check) -> Iterator[Finding]:
    name = getattr(check, "func", check).__name__
    try:
        yield from check()
    except Exception as error:  # a broken installation breaks a check anywhere, and that is what the doctor is for
        text = " ".join(str(error).split())[:300]
        yield problem(
            name.replace("_", " "), f"the check itself failed ({type(error).__name__}: {text})", "mend that first"
        )
