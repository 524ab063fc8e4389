"""Environment variables: nnU-Net's folders, its door for trainers, threads, and the locale."""

from __future__ import annotations

import locale
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nnssl.doctor.findings import Finding, ok, problem, warning

FOLDERS = {"nnUNet_raw": "raw data", "nnUNet_preprocessed": "preprocessed data", "nnUNet_results": "trained models"}
LOW_SPACE = {"nnUNet_raw": 1, "nnUNet_preprocessed": 20, "nnUNet_results": 10, "temporary files": 2}
"""GiB below which a warning is due: a preprocessed pool is about as large as the raw one, a run keeps three checkpoints."""
NO_SPACE = 0.5
"""GiB below which nothing useful can be written."""


def folders() -> Iterator[Finding]:
    """nnU-Net's three folders: set, there, writable."""
    for name, what in FOLDERS.items():
        value = os.environ.get(name, "")
        path = Path(value).expanduser()
        if not value:
            example = f'export {name}="$HOME/nnunet/{name.removeprefix("nnUNet_")}"'
            yield problem(name, "is not set", f"set it to the folder for {what}, for example: {example}")
        elif not path.is_dir():
            yield problem(name, f"{path} is no folder", f"mkdir -p {path}, or correct the variable")
        elif (reason := _not_writable(path)) and name == "nnUNet_raw":
            yield warning(
                name, f"{path} cannot be written to ({reason})", "enough to train; nnssl_import must write there"
            )
        elif reason:
            yield problem(
                name, f"{path} cannot be written to ({reason})", "ask for the right to write, or choose another"
            )
        else:
            yield ok(name, str(path))


def _not_writable(folder: Path) -> str:
    """Why, found out by writing: rights, quotas and read-only disks say different things."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nnssl_doctor."):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def space() -> Iterator[Finding]:
    """Free space of the three folders and of the one for temporary files."""
    places = {name: Path(os.environ[name]).expanduser() for name in FOLDERS if os.environ.get(name)}
    for name, path in {**places, "temporary files": Path(tempfile.gettempdir())}.items():
        if not path.is_dir():
            continue
        free = shutil.disk_usage(path).free / 2**30
        says = f"{free:,.1f} GiB free in {path}"
        if free < NO_SPACE:
            yield problem(
                f"disk of {name}", says, "make room, or point the variable (TMPDIR for temporary files) elsewhere"
            )
        elif free < LOW_SPACE[name]:
            yield warning(f"disk of {name}", says, "make room before long work: runs that cannot write stop")
        else:
            yield ok(f"disk of {name}", says)


def plugin() -> Iterator[Finding]:
    """Whether nnUNet_extTrainer holds nnssl's folder; whether nnU-Net finds it so is asked elsewhere."""
    wanted = Path(__file__).resolve().parent.parent / "nnunet_plugin"
    given = [Path(p).expanduser() for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    mend = 'export nnUNet_extTrainer="$(nnssl_plugin_path)"'
    if not given:
        yield warning(
            "nnUNet_extTrainer", "is not set: nnUNetv2_train will not find nnssl's trainers (nnssl_pretrain will)", mend
        )
    elif any(p.resolve() == wanted for p in given if p.exists()):
        yield ok("nnUNet_extTrainer", str(wanted))
    else:
        missing = [str(p) for p in given if not p.is_dir()]
        says = f"{missing[0]} is no folder" if missing else f"does not hold {wanted}"
        yield problem("nnUNet_extTrainer", says, f"{mend} (several folders are separated by '{os.pathsep}')")


def threads(processors: int) -> Iterator[Finding]:
    """Variables that decide how many processes and threads work."""
    given = os.environ.get("nnUNet_n_proc_DA")
    if given is not None and (not given.isdecimal() or int(given) < 1):
        yield problem(
            "nnUNet_n_proc_DA",
            f"is '{given}': nnU-Net's own planner fails on it" + ("" if given.isdecimal() else ", and its trainers"),
            "unset nnUNet_n_proc_DA, or set it to at least 1",
        )
    elif given is not None and int(given) > 4 * processors:
        yield warning("nnUNet_n_proc_DA", f"{given} workers on {processors} processor(s)", f"set it to {processors}")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is None and processors > 4:
        yield warning(
            "OMP_NUM_THREADS",
            f"is not set: each worker process may start {processors} threads",
            "export OMP_NUM_THREADS=1 for preprocessing with many processes",
        )
    elif threads is not None and (not threads.isdecimal() or int(threads) < 1):
        yield problem("OMP_NUM_THREADS", f"is '{threads}', no number", "export OMP_NUM_THREADS=1, or unset it")
    else:
        yield ok("OMP_NUM_THREADS", threads or "not set")


def texts() -> Iterator[Finding]:
    """Encodings: file names and reports hold more than ASCII."""
    files, text = sys.getfilesystemencoding(), locale.getpreferredencoding(False)
    if files.lower().replace("-", "") == "utf8" and text.lower().replace("-", "") == "utf8":
        yield ok("locale", f"{text}")
    else:
        yield warning("locale", f"file names are {files}, texts {text}", "export LC_ALL=C.UTF-8 PYTHONUTF8=1")
