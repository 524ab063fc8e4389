"""What the errors of a disk mean in words, and which of them are worth another try."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nnssl.errors import NnsslError

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each further try: a minute in all, which a network disk's restart takes."""

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not be so large",
}
_FORBIDDEN = {
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "writing is not allowed there",
    errno.EPERM: "writing is not allowed there",
}
_GONE = {errno.ENOENT: "the folder has gone", errno.ENOTDIR: "the folder has gone"}
_SILENT = {
    getattr(errno, name): "the disk does not answer"
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV", "ENXIO", "EREMOTEIO")
    if hasattr(errno, name)
}
_BUSY = {errno.EBUSY: "the disk is busy", errno.EAGAIN: "the disk is busy"}
_TROUBLE = _FULL | _FORBIDDEN | _GONE | _SILENT | _BUSY


def disk_error(error: BaseException | None) -> OSError | None:
    """The disk's own error in what was raised or behind it (torch raises another one over it), if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TROUBLE:
            return error
        error = error.__cause__ or error.__context__
    return None


def disk_is_to_blame(error: OSError) -> bool:
    """Whether the disk is full, closed or silent. A missing file may as well be a mistake of the program."""
    return error.errno in _FULL | _FORBIDDEN | _SILENT


def explain(error: OSError, path: Path | None) -> str:
    """`cannot write PATH: the disk is full (6 MB free)`; `cannot use` where it may have been about reading."""
    words = _TROUBLE.get(error.errno or 0, error.strerror or str(error))
    if error.errno in _FULL and path is not None:
        try:
            words += f" ({shutil.disk_usage(path.parent).free / 1e6:,.0f} MB free)"
        except OSError:
            words += " (how much is free cannot be asked)"
    return (
        f"cannot {'write' if error.errno in _FULL or error.errno == errno.EROFS else 'use'} {path or 'a file'}: {words}"
    )


def user_error(error: BaseException) -> NnsslError | None:
    """What a user can mend, as one line: the error itself, or the disk's behind it. None for an error of the program."""
    if isinstance(error, NnsslError):
        return error
    trouble = disk_error(error)
    if trouble is None or not disk_is_to_blame(trouble):
        return None
    return NnsslError(explain(trouble, Path(trouble.filename) if trouble.filename else None))


def may_pass(error: OSError) -> bool:
    """Whether waiting may help: a full disk is emptied, a network disk comes back; a forbidden folder stays forbidden."""
    return error.errno in _FULL | _GONE | _SILENT | _BUSY


def retried(
    write: Callable[[], None],
    say: Callable[[str], None],
    path: Path,
    hurry: Callable[[], bool] = lambda: False,
    waits: Iterable[float] | None = None,
) -> None:
    """Call `write`; where the disk is in the way and may recover, wait and call it again.

    Args:
        write: writes `path`, completely or not at all.
        say: takes a line for the log before the first wait.
        path: for the line.
        hurry: whether there is no time to wait, because a scheduler is about to kill the process.
        waits: seconds before each further try; None = `WAITS`.

    Raises:
        OSError: the disk's error in the last try.
    """
    for n, wait in enumerate([*(WAITS if waits is None else waits), None]):
        try:
            write()
            return
        except Exception as error:  # whatever a writer makes of its disk's error
            trouble = disk_error(error)
            if trouble is None:
                raise
            if wait is None or hurry() or not may_pass(trouble):
                raise trouble from error
            if n == 0:
                say(f"WARNING: {explain(trouble, path)}; trying again for a while")
        _sleep(wait, hurry)


def _sleep(seconds: float, hurry: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not hurry():
        time.sleep(min(0.25, left))
