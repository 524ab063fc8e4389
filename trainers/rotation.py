"""The last checkpoint and the one before on disk: how a new one takes its place, and which of them a roll-back goes to.

`checkpoint_previous.pth` comes from a fixed place of the run (`checkpoint.at_fixed_place`): what a clock or a signal has had
written is never kept as the previous one. So one of the two is from the last fixed place, in every run with these settings.
"""

from __future__ import annotations

import os
from pathlib import Path

from nnssl.trainers.checkpoint import LATEST, PREVIOUS, at_fixed_place, place_of

from nnssl.errors import NnsslError
from nnssl.transfer import torch_files

SPARE = f".{PREVIOUS}.tmp"
"""Name of the last checkpoint while a new one takes its place."""


def make_way(latest: Path) -> None:
    """Give the last checkpoint another name, under which it outlives the new one's coming; `settle` makes it the previous.

    What was written between fixed places, and what cannot be read, is not kept, unless it is all there is.
    """
    found = _whereabouts(latest)
    keep = found is not None and (found[1] or not latest.with_name(PREVIOUS).is_file())
    if not keep:
        return
    spare = latest.with_name(SPARE)
    try:
        os.link(latest, spare)
    except OSError:  # a file system without hard links; until the new one is there, there are this and the previous one
        latest.replace(spare)


def settle(folder: Path) -> None:
    """Bring a change of checkpoints that was interrupted, at whatever moment, to its end or back.

    Raises:
        OSError: the disk is in the way; nothing is lost.
    """
    latest, spare = folder / LATEST, folder / SPARE
    if not spare.exists():
        return
    if not latest.exists():
        spare.replace(latest)
    elif latest.samefile(spare):  # the new one has not come
        spare.unlink()
    else:
        spare.replace(folder / PREVIOUS)


def ways_back(folder: Path, now: tuple[int, int]) -> list[str]:
    """Checkpoints of a run in the order in which a roll-back tries them: the last from a fixed place first.

    Others come behind: earlier versions kept them without regard to their place, and a disk may have been in the way.

    Args:
        folder: of the run.
        now: epoch and step where the run stands; what lies beyond comes last.
    """

    def rank(name: str) -> int:
        found = _whereabouts(folder / name)
        if found is None:
            return 0  # whoever reads it says what is wrong with it
        place, fixed = found
        return 2 if place > now else 0 if fixed else 1

    return sorted((name for name in (LATEST, PREVIOUS) if (folder / name).is_file()), key=rank)


def _whereabouts(path: Path) -> tuple[tuple[int, int], bool] | None:
    """Place of a checkpoint, and whether that is a fixed one; None if that cannot be read."""
    try:
        content = torch_files.peek(path)
        return place_of(content), at_fixed_place(content)
    except (NnsslError, OSError):
        return None
    except (
        KeyError,
        TypeError,
        ArithmeticError,
    ):  # damage in the plain values, whose checksums peeking does not compare
        return None
