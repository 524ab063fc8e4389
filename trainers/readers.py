"""What a run says when one of its reading processes (DataLoader workers) dies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nnssl.trainers.process_group import LostContact

from nnssl.errors import NnsslError

_DIED = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (?:is killed by signal: ([\w ]+\w)|exited unexpectedly)")
_HINTS = {
    "Killed": "killed, as the system does when memory runs out",
    "Bus error": "ended by a bus error: shared memory (/dev/shm; --shm-size of a container) is full, or the disk under a "
    "memory-mapped file has gone",
}


class LostReader(NnsslError):
    """A reading process died; the run can be continued."""

    exit_code = LostContact.exit_code


def _texts(error: BaseException | None) -> Iterator[str]:
    """Of an error and those behind it: torch says the signal in one of them."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


@contextmanager
def readers_watched(workers: int) -> Iterator[None]:
    """One line instead of torch's traceback, which may come up anywhere: torch raises from a signal handler.

    Args:
        workers: how many there are.

    Raises:
        LostReader: one of them died.
    """
    try:
        yield
    except RuntimeError as error:
        found = [match for text in _texts(error) if (match := _DIED.search(text))]
        if not found:
            raise
        signal = next((match[1] for match in found if match[1]), "")
        how = _HINTS.get(signal, f"ended by signal: {signal}" if signal else "ended unexpectedly")
        fewer = f"fewer than {workers} with --set workers={workers // 2}" if workers else "fewer"
        raise LostReader(
            f"a reading process was {how}. The checkpoints are valid: the same command with --c goes on. If it happens "
            f"again, start {fewer} (0 reads in the training process), give the job more memory, or leave out --set cache"
        ) from error
