"""Files that will be read soon are named to the system, which then reads them into its memory while others are worked on.

Which cases the coming batches need is known beforehand (`CropSampler.cases`). A file that lies on a disk is otherwise
fetched piece by piece, each piece only when it is unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

LARGEST = 8
"""Voxels of a case per voxel of a crop up to which its file is named: of a larger one, a crop needs a small part."""
PIECE = 2**20
"""Bytes per call: of a call, Linux reads no more than what one request to the disk may hold (mm/readahead.c)."""


class ReadAhead:
    """Names the files of a reading process' coming batches, each batch once.

    Args:
        files_of: number of a batch -> the files that this process reads for it.
        end: the number behind the last batch that is read.
        batches: how many to look ahead; 0 = none.
    """

    def __init__(self, files_of: Callable[[int], Iterable[Path]], end: int, batches: int) -> None:
        self.files_of = files_of
        self.end = end
        self.batches = batches
        self._named = -1

    def before(self, number: int, stride: int) -> None:
        """To be called before a batch is read.

        Args:
            number: of the batch.
            stride: this process reads every so-manieth batch: the number of reading processes.
        """
        if not self.batches:
            return
        last = min(number + self.batches * stride, self.end - 1)
        for coming in range(number, last + 1, stride):
            if coming > self._named:
                fetch(self.files_of(coming))
        self._named = max(self._named, last)


def fetch(paths: Iterable[Path]) -> None:
    """Ask the system to read files into its memory, without waiting for it. Where it cannot be asked, nothing happens."""
    if not hasattr(os, "posix_fadvise"):  # macOS, Windows
        return
    for path in paths:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:  # who reads the file will say what is wrong with it
            continue
        try:
            for begin in range(0, os.fstat(file).st_size, PIECE):
                os.posix_fadvise(file, begin, PIECE, os.POSIX_FADV_WILLNEED)
        except OSError:  # a file system without memory of its own refuses; it is only advice
            pass
        finally:
            os.close(file)
