"""Checkpoints on disk: at every moment there is a whole one, whatever kills the run or goes wrong with the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnssl.trainers.checkpoint import DAMAGED, FINAL, LATEST, PREVIOUS, check_format
from nnssl.trainers.rotation import SPARE, make_way, settle
from nnssl.trainers.run_config import CONFIG_FORMAT

from nnssl.disk import disk_error, explain, retried
from nnssl.errors import MissingError, NnsslError
from nnssl.files import atomic_path, check_number, flush_folder, leftovers, read_json
from nnssl.transfer import torch_files

ORDER = (FINAL, LATEST, PREVIOUS)
"""Where a continuation looks first."""
FAILURES = 3
"""Checkpoints in a row that may fail before the run stops."""
READ_WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try to read a checkpoint that the disk does not give."""

Say = Callable[[str], None]


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write, flush and read back under a temporary name; then this one becomes the last, and the last one the previous.

    Once there are two, there are two different whole ones at every moment; `rotation` has the order and its repair.

    Raises:
        OSError, RuntimeError: the disk is in the way; what was there before is still there.
    """
    settle(path.parent)
    try:
        with atomic_path(path, make_folder=False) as temporary:
            with temporary.open("wb") as file:
                torch_files.write(content, file)
                file.flush()
                os.fsync(file.fileno())  # a disk may notice here that it is full, and then the others keep their names
                _forget_cached(file.fileno())
            try:
                torch_files.verify(temporary)
            except NnsslError as error:  # the disk took it without a word and gives something else back
                raise OSError(errno.EIO, str(error), str(path)) from error
            if path.name == LATEST and path.is_file():
                make_way(path)
    finally:
        with contextlib.suppress(OSError):  # the next one comes to it again, and so does the next start
            settle(path.parent)
    flush_folder(path.parent)


def _forget_cached(handle: int) -> None:
    """Let the system forget a file's bytes, which are on the disk: what is read next comes from there, not from memory."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice; some file systems take none
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def read_checkpoint(path: Path, say: Say, others: Sequence[str] = ORDER) -> tuple[dict[str, Any], Path]:
    """Read a checkpoint, or where it is damaged, unreadable or missing the one before; says so.

    Args:
        path: the checkpoint to read.
        say: takes lines for the log.
        others: names of a run's checkpoints; those behind `path` follow it.

    Returns:
        The content and where it was found.

    Raises:
        NnsslError: none is whole; or what was found is whole and of another kind, a newer version's for example.
    """
    names = others[others.index(path.name) :] if path.name in others else (path.name,)
    broken: list[str] = []
    silent = False
    for candidate in (path.with_name(name) for name in names):
        if not candidate.is_file():
            if candidate == path:
                broken.append(f"{path} does not exist")
            continue
        try:
            content = _read(candidate, say)
        except _Broken as error:
            broken.append(str(error))
            silent = silent or isinstance(error.__cause__, OSError)
            continue
        check_format(content, str(candidate))
        if broken:
            say(
                f"WARNING: {'; '.join(broken)}. Continuing from the one before, {candidate.name}: nothing is lost but time"
            )
        return content, candidate
    if len(broken) == 1 and not path.exists():
        raise MissingError(broken[0])
    mend = "Put a copy back, or start the run again with --overwrite"
    raise NnsslError(
        f"there is no whole checkpoint to continue from: {'; '.join(broken)}. "
        + ("Look after the disk, and try --c again" if silent else mend)
    )


class _Broken(Exception):
    """A checkpoint is damaged, or the disk does not give it; the cause is the disk's error then."""


def _read(path: Path, say: Say) -> dict[str, Any]:
    """Content of a checkpoint whose every byte has been compared with the checksums."""
    try:
        retried(lambda: torch_files.verify(path), say, path, waits=READ_WAITS)
    except NnsslError as error:
        raise _Broken(str(error)) from None
    except OSError as error:
        raise _Broken(f"{path} cannot be read ({error.strerror or error})") from error
    try:
        return torch_files.load(path)
    except OSError as error:
        raise _Broken(f"{path} cannot be read ({error.strerror or error})") from error


def put_damaged_aside(found: Path, say: Say, others: Sequence[str] = ORDER) -> None:
    """After a fallback: a damaged checkpoint must not become the previous one of the next.

    Args:
        found: what `read_checkpoint` found.
        say: takes lines for the log.
        others: as `read_checkpoint` got them.
    """
    for name in others[: others.index(found.name)] if found.name in others else ():
        damaged = found.with_name(name)
        if damaged.is_file():
            damaged.replace(found.with_name(DAMAGED))
            say(f"{name} is now {DAMAGED}, which may be deleted")


def checkpoint_to_continue(folder: Path, say: Say) -> Path | None:
    """The checkpoint that `--c` starts from; None where there is no run, or one that was killed before its first.

    Raises:
        NnsslError: the run has come further, and its checkpoints are gone.
    """
    for name in ORDER:
        if (folder / name).is_file():
            return folder / name
    metrics = folder / "metrics.jsonl"
    epochs = len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.is_file() else 0
    if epochs > 1 or (folder / DAMAGED).is_file():
        raise NnsslError(
            f"{folder}: the run has done {epochs} epochs and has no checkpoint to continue from: put a copy of "
            f"{LATEST} back, or start the run again with --overwrite"
        )
    if (folder / "config.json").is_file():
        say("--c: the run ended before its first checkpoint; it begins anew, with the settings in config.json")
    else:
        say(f"--c: there is no run in {folder} yet; it begins")
    return None


def has_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, as far as its settings or a checkpoint are there."""
    return any((folder / name).is_file() for name in ("config.json", *ORDER))


def remove_finished(folder: Path) -> None:
    """Once the results are there the final checkpoint is enough."""
    for name in (LATEST, PREVIOUS, SPARE, DAMAGED):
        with contextlib.suppress(OSError):  # they are in nobody's way
            (folder / name).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Finish or remove what a killed process left half-done; the caller holds the folder's lock, so nobody is writing."""
    with contextlib.suppress(OSError):  # another attempt comes with the next checkpoint
        settle(folder)
    for path in (p for place in (folder, folder / "snapshots") if place.is_dir() for p in leftovers(place)):
        with contextlib.suppress(OSError):  # another attempt comes with the next start
            if path.name != SPARE:  # it is a whole checkpoint
                path.unlink()


class Keeper:
    """Writes a run's checkpoints and knows how often that has failed.

    Args:
        folder: run folder.
        say: takes lines for the log.
        hurry: whether a scheduler wants the process to leave.
    """

    def __init__(self, folder: Path, say: Say, hurry: Callable[[], bool]) -> None:
        self.folder, self.say, self.hurry = folder, say, hurry
        self.failures = 0

    def save(self, content: dict[str, Any], path: Path, must: bool) -> bool:
        """Write a checkpoint; whether it worked.

        Args:
            content: as `checkpoint.pack` makes it.
            path: where.
            must: the run ends here, so what is not written is lost. Then, or when it has failed `FAILURES` times in a row,
                a copy is put into the temporary folder and the run stops.

        Raises:
            NnsslError: it must, and could not.
        """
        try:
            retried(lambda: write_checkpoint(content, path), self.say, path, self.hurry)
        except OSError as error:
            trouble = disk_error(error)
            if trouble is None:
                raise
            self.failures += 1
            self._failed(content, path, explain(trouble, path), must)
            return False
        self.failures = 0
        return True

    def _failed(self, content: dict[str, Any], path: Path, why: str, must: bool) -> None:
        if not must and self.failures < FAILURES:
            self.say(f"WARNING: {why}. Training goes on; the next try is at the end of the next epoch")
            return
        copy = self._rescue(content, path)
        hint = f"The state is saved in {copy}: mend that, move it to {path.parent}, and " if copy else "Mend that, and "
        raise NnsslError(f"{why}. {hint}continue with --c")

    def _rescue(self, content: dict[str, Any], path: Path) -> Path | None:
        """A last copy elsewhere, if there is room."""
        place: Path | None = None
        try:
            place = Path(tempfile.mkdtemp(prefix="nnssl_rescue_"))
            write_checkpoint(content, place / path.name)
        except (OSError, RuntimeError) as error:
            if disk_error(error) is None:
                raise
            if place is not None:
                with contextlib.suppress(OSError):
                    place.rmdir()
            return None
        return place / path.name


def tolerated(write: Callable[[], Any], path: Path, say: Say) -> None:
    """Write something that a run can do without (a picture, a table that is rewritten): a disk's error is a line."""
    try:
        write()
    except Exception as error:  # matplotlib, PIL and torch each put an error of their own over the disk's
        trouble = disk_error(error)
        if trouble is None:
            raise
        say(f"WARNING: {explain(trouble, path)}. Training goes on without it")


def saved_config(folder: Path) -> dict[str, Any] | None:
    """The settings in a run's config.json, or in its checkpoint if only that was copied here; None where there is no run.

    Raises:
        NnsslError: the file is damaged, or of a newer format: its settings may mean what this version does not know.
    """
    path = folder / "config.json"
    if path.is_file():
        mend = "Restore it, or start again with --overwrite"
        try:
            content = read_json(path)
        except NnsslError as error:  # it names the file
            raise NnsslError(f"{error}. {mend}") from error
        check_number(content, "format", CONFIG_FORMAT, path)
        try:
            return dict(content["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise NnsslError(f"{path} is damaged: it holds no settings. {mend}") from error
    found = next((folder / name for name in ORDER if (folder / name).is_file()), None)
    if found is None:
        return None
    content, _ = read_checkpoint(found, lambda _: None)  # reading it once more to continue says what is to be said
    return dict(content["config"])
