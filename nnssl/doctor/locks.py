"""Whether a lock in nnUNet_results keeps other processes out: two of them in one run folder would spoil its checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nnssl.doctor.findings import Finding, ok, warning

MOUNTS = Path("/proc/self/mounts")
OF_ONE_MACHINE = ("nolock", "local_lock=all", "local_lock=posix", "localflock")
"""Options of NFS and Lustre under which locks hold among the processes of one machine only."""
REFUSED = 3
"""Exit code of a process that did not get the lock of another."""
_RIVAL = f"""
import errno, fcntl, sys
REFUSED = {REFUSED}
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        sys.exit(REFUSED if error.errno in (errno.EACCES, errno.EAGAIN) else 4)
"""
ABOUT = "locks"
MEND = (
    "mount it with locks (NFS: version 4, or lockd and no nolock; Lustre: -o flock). Until then nothing keeps two processes "
    "out of one run folder: do not queue a run twice"
)


def locks() -> Iterator[Finding]:
    """Take a lock as a run does, and let another process try to take it, too."""
    try:
        import fcntl
    except ImportError:  # Windows; runs take none there
        return
    folder = Path(os.environ.get("nnUNet_results", "")).expanduser()
    if not os.environ.get("nnUNet_results") or not folder.is_dir() or not os.access(folder, os.W_OK):
        return  # said elsewhere
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".nnssl_doctor.") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield warning(ABOUT, f"the disk of nnUNet_results={folder} gives none ({error.strerror})", MEND)
            return
        rival = subprocess.run([sys.executable, "-c", _RIVAL, file.name], capture_output=True, timeout=60, check=False)
    options = [option for option in _mount_options(folder) if option in OF_ONE_MACHINE]
    if rival.returncode == 0:
        yield warning(ABOUT, f"two processes got the same one in nnUNet_results={folder}", MEND)
    elif options:
        yield warning(
            ABOUT, f"nnUNet_results={folder} is mounted with {options[0]}: they hold on this machine only", MEND
        )
    elif rival.returncode != REFUSED:
        yield warning(
            ABOUT,
            f"whether nnUNet_results={folder} keeps other processes out could not be tried",
            f"{MEND}, if it does not",
        )
    else:
        yield ok(ABOUT, f"a run in nnUNet_results={folder} keeps other processes out")


def _mount_options(folder: Path) -> list[str]:
    """Of the file system that a folder is in; none where the system does not list them."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    real, longest, found = folder.resolve(), -1, list[str]()
    for words in (line.split() for line in lines):
        place = Path(words[1].replace("\\040", " "))
        if real.is_relative_to(place) and len(place.parts) >= longest:  # of two on one place the later hides the other
            longest, found = len(place.parts), words[3].split(",")
    return found
