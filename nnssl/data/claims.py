"""Pieces of work that several processes, also of several machines, take from one shared folder: each is taken once.

A claim is a small file that only one process can make. It names its owner, who touches it while it works. The claim of an
owner who died is not removed or renamed by those who see it, because two might do so, and the second would hit the first
one's new claim. They make a successor instead (`lock`, `lock.1`, `lock.2`, ...): again only one can, and the last counts.
Numbers begin anew once a piece was given back. Who was slow to act on what it saw before therefore looks again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BEAT_SECONDS = 30.0
DEAD_AFTER_SECONDS = 300.0
"""A claim that was not renewed for so long belongs to a process that died, possibly on another machine. Network folders may
show times that are a minute old."""


class Claim:
    """What `claim` yields: true while the piece is this process'.

    Attributes:
        lost: set when another process took over, because this one did not stir for too long (a suspended machine).
    """

    def __init__(self, path: Path | None, on_loss: Callable[[], None] | None = None) -> None:
        self.path = path
        self.lost = threading.Event()
        self.on_loss = on_loss

    def __bool__(self) -> bool:
        return self.path is not None and not self.lost.is_set()


@contextmanager
def claim(lock: Path, on_loss: Callable[[], None] | None = None) -> Iterator[Claim]:
    """Take a piece of work for this process; yields something false where another process has it.

    What an earlier owner may have finished must be looked at after this, not before.

    Args:
        lock: file beside the piece, whose folder exists. Works on network folders, too. Where names are somebody else's
            they need an ending (`scan.lock`): the successor of `scan` would be the claim on a piece called `scan.1`.
        on_loss: called, in another thread, when another process took over; see `Claim.lost`.
    """
    mine = Claim(_take(lock), on_loss)
    if mine.path is None:
        yield mine
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(mine, lock, over), daemon=True)
    beat.start()
    try:
        yield mine
    finally:
        over.set()
        beat.join()
        _give_back(mine, lock)


@contextmanager
def turn(lock: Path) -> Iterator[None]:
    """Do something one after another: wait until no living process has the claim, then hold it."""
    while True:
        with claim(lock) as mine:
            if mine:
                yield
                return
        time.sleep(POLL_SECONDS)


def is_claimed(lock: Path) -> bool:
    """Whether a process that works has the piece."""
    last = _last(lock)
    return last is not None and _alive(last[1])


def owner() -> str:
    """This process, so that others on its machine can see whether it lives: host, number, begin, and what numbers count in.

    Two containers may call themselves alike and count their processes apart.
    """
    return process_identity(os.getpid())


def process_identity(number: int) -> str:
    """The same of another process of this machine: its number may be given out anew, this is not."""
    return f"{socket.gethostname()} {number} {_began(number)} {_system()}"


def _all(lock: Path) -> list[tuple[int, Path]]:
    """Numbers and paths of the claims on a piece, the one that counts last."""
    try:
        names = [path.name for path in lock.parent.iterdir()]  # no pattern: names of cases may hold brackets
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        number = "0" if name == lock.name else name.removeprefix(f"{lock.name}.")
        if name.startswith(lock.name) and number.isdecimal():
            found.append((int(number), lock.with_name(name)))
    return sorted(found)


def _last(lock: Path) -> tuple[int, Path] | None:
    return next(reversed(_all(lock)), None)


def _take(lock: Path) -> Path | None:
    last, before = _last(lock), None
    if last is None:
        path = lock
    else:
        before = _content(last[1])
        if _alive(last[1]):
            return None
        path = lock.with_name(f"{lock.name}.{last[0] + 1}")
    if not _make(path):
        return None
    mine = _content(path)
    if _is_valid(path, lock, last, before):
        return path
    if _content(path) == mine:
        path.unlink(missing_ok=True)
    return None


def _is_valid(path: Path, lock: Path, last: tuple[int, Path] | None, before: str | None) -> bool:
    """Whether a new claim counts: it is the last, and the dead owner's that it succeeds is still the one before.

    Else an heir gave the piece back between the look and the claim, and a rival may have begun the numbers anew: it would
    hold `lock`, and this process `lock.1`.
    """
    now = _last(lock)
    return now is not None and now[1] == path and (last is None or (before is not None and _content(last[1]) == before))


def _content(path: Path) -> str | None:
    """Of a claim; no two are alike, but those that a full disk or a power cut left empty. None where it was given back."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _make(path: Path) -> bool:
    """Create the file with its content, or find that it is there. A hard link appears complete, and is safe on NFS."""
    complete = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    complete.write_text(f"{owner()} {uuid.uuid4().hex}\n", encoding="utf-8")
    try:
        os.link(complete, path)
    except FileExistsError:
        return complete.stat().st_nlink == 2  # NFS may have done it and lost the answer
    except OSError:  # a file system without hard links
        return _make_without_link(path, complete)
    finally:
        complete.unlink(missing_ok=True)
    return True


def _make_without_link(path: Path, complete: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(complete.read_text(encoding="utf-8"))
    return True


def _beat(mine: Claim, lock: Path, over: threading.Event) -> None:
    assert mine.path is not None
    while not over.wait(BEAT_SECONDS):
        try:
            if _overtaken(mine.path, lock) and not over.wait(POLL_SECONDS) and _overtaken(mine.path, lock):
                mine.lost.set()
                log.warning(
                    "%s: another process took this piece over, because this one did not stir for too long", lock
                )
                if mine.on_loss is not None:
                    mine.on_loss()
                return
            os.utime(mine.path)
        except OSError as error:  # a network folder that is away for a moment
            log.debug("%s: %s", mine.path, error)


def _overtaken(path: Path, lock: Path) -> bool:
    """Whether another claim counts. For a moment that may be one that its maker is about to take back, see `_is_valid`."""
    last = _last(lock)
    return last is None or last[1] != path


def _give_back(mine: Claim, lock: Path) -> None:
    """Remove the claim and those of dead owners before it, the own one last."""
    assert mine.path is not None
    if not mine.lost.is_set() and _overtaken(mine.path, lock):
        time.sleep(POLL_SECONDS)
    there = _all(lock)
    if not mine.lost.is_set() and there and there[-1][1] == mine.path:
        for _, path in there:
            path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    """Whether the owner of a claim still works."""
    try:
        age = time.time() - path.stat().st_mtime
        words = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return False
    if len(words) >= 2 and words[0] == socket.gethostname() and words[1].isdecimal():
        known = words[3] if len(words) > 3 else _system()  # claims of the first version do not say
        if known == _system() and not _is_process(int(words[1]), words[2] if len(words) > 3 else ""):
            return False
    return age < DEAD_AFTER_SECONDS or _age_by_its_disk(path) < DEAD_AFTER_SECONDS


def _age_by_its_disk(path: Path) -> float:
    """Age by the clock of the disk's own machine: a worker's clock may be minutes wrong."""
    now = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # it was given back meanwhile
        return float("inf")
    finally:
        now.unlink(missing_ok=True)


def _is_process(number: int, began: str) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    now = _began(number)
    return began in ("", "-") or now in ("-", began)  # else a number that was given out anew


def _began(number: int) -> str:
    """When a process began, in the system's own unit; `-` where the system does not tell."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "-"
    state, began = stat.rpartition(")")[2].split()[0], stat.rpartition(")")[2].split()[19]
    return "dead" if state == "Z" else began  # a zombie has ended, its parent only has not looked


def _system() -> str:
    """What process numbers are unique in: this boot of the machine and this container."""
    parts = []
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
        lambda: str(Path("/proc/self/ns/pid").readlink()).rpartition(":")[2].strip("[]"),
    ):
        with contextlib.suppress(OSError):
            parts.append(read())
    return "/".join(parts) or "-"
