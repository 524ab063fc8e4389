"""One process at a time writes into a run folder."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from nnssl.errors import NnsslError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
PATIENCE = 60.0
"""Seconds to wait for a predecessor: a killed process needs a moment to go, a network disk one to notice."""
_TAKEN = (errno.EACCES, errno.EAGAIN)


class RunLock:
    """Holds a run folder while it is used as a context manager.

    The lock is the operating system's (POSIX record lock): it goes with the process however that ends, and is not handed on
    to the reading processes. A disk without locks gives none, and then nothing is checked.

    Args:
        folder: run folder.
        patience: seconds to wait.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self.path, self.patience = folder / NAME, patience
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        """Raises NnsslError where another process keeps the folder."""
        if fcntl is None:
            return self
        end, holder = time.monotonic() + self.patience, ""
        while not self._taken():
            if time.monotonic() > end:
                with contextlib.suppress(OSError):
                    holder = self.path.read_text(errors="replace").strip()
                raise NnsslError(
                    f"{self.path.parent}: another process ({holder or 'unknown'}) is training in this folder. End it "
                    "first, or tell the new run apart with --name"
                )
            time.sleep(0.2)
        return self

    def _taken(self) -> bool:
        """Whether the lock is ours now, or the disk has none to give."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino != self.path.stat().st_ino:  # its holder has just left and removed it
                os.close(handle)
                return False
        except OSError as error:
            os.close(handle)
            return error.errno not in (*_TAKEN, errno.ENOENT)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._handle = handle
        return True

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):  # the disk may have gone meanwhile
                self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None
