"""Files that will be read soon are named to the system, which then reads them into its memory while others are worked on.

Which cases the coming batches need is known beforehand (`CropSampler.cases`). A file that lies on a disk is otherwise
fetched piece by piece, each piece only when it is unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path

from nnssl.data.pool import Pool

LARGEST = 8
"""Voxels of a case per voxel of a crop up to which its file is named: of a larger one, a crop needs a small part."""
PIECE = 2**20
"""Bytes per call: of a call, Linux reads no more than what one request to the disk may hold (mm/readahead.c)."""


class ReadAhead:
    """Names the files of a reading process' coming batches, each batch once.

    Args:
        pool: cases.
        size: of a crop, voxels per axis.
        batches: how many to look ahead; 0 = none.
    """

    def __init__(self, pool: Pool, size: Sequence[int], batches: int) -> None:
        self.pool = pool
        self.largest = LARGEST * prod(size)
        self.batches = batches
        self._named = -1

    def before(self, step: int, stride: int, cases_of: Callable[[int], Iterable[int]]) -> None:
        """To be called before a step's batch is read.

        Args:
            step: number of the batch.
            stride: this process reads every so-manieth batch: the number of reading processes.
            cases_of: number of a batch -> the cases that this process reads for it. Not kept: whoever asks holds open files,
                and two objects that hold each other are not freed when the last user lets go.
        """
        last = step + self.batches * stride if self.batches else -1
        for coming in range(step, last + 1, stride):
            if coming > self._named:
                fetch(path for case in cases_of(coming) for path in self._files(case))
        self._named = max(self._named, last)

    def _files(self, case: int) -> list[Path]:
        if prod(self.pool.cases[case].shape) > self.largest:
            return []
        body = [self.pool.body_path(case)] if self.pool.cases[case].body else []
        return [self.pool.image_path(case), *body]


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
