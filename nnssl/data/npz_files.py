"""npz files, read without pickle and without believing a size that the file only declares."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from nnssl.data.memory import usable_memory
from nnssl.errors import MissingError, NnsslError, shortened

MOST_RATIO = 1100
"""Deflate packs nothing more tightly than about 1,030 to 1."""


def load_npz(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, np.ndarray]:
    """Arrays of an npz file, by name.

    Args:
        path: the file.
        wanted: which names are read.

    Raises:
        NnsslError: missing, damaged, holding objects or what is no array, or declaring more than it holds or than
            there is memory for.
    """
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive, wanted)
            _check(path, archive, entries)
            return {name: _read(archive, entry) for name, entry in entries.items()}
    except NnsslError:
        raise
    except Exception as error:  # zip, zlib, the header's own parser: a damaged file leads them anywhere
        raise NnsslError(
            f"{path} is no npz file that can be read without pickle ({' '.join(str(error).split())[:120]})"
        ) from error


def _entries(path: Path, archive: zipfile.ZipFile, wanted: Callable[[str], bool]) -> dict[str, zipfile.ZipInfo]:
    """Name -> entry. `np.load` hands out an entry without the ending too, as raw bytes, and of two names the last."""
    found = archive.infolist()
    other = [e.filename for e in found if not e.filename.endswith(".npy")]
    if other:
        raise NnsslError(f"{path} holds {shortened(other, 2)}, which is no array: write it again with np.savez")
    names = [e.filename.removesuffix(".npy") for e in found]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise NnsslError(f"{path} holds {shortened(twice, 2)} more than once: write it again with np.savez")
    return {name: entry for name, entry in zip(names, found) if wanted(name)}


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _check(path: Path, archive: zipfile.ZipFile, wanted: Mapping[str, zipfile.ZipInfo]) -> None:
    """Compare what every array declares with the entry that holds it, and all of them with memory."""
    entries = list(wanted.values())
    total = sum(e.file_size for e in entries)
    if total > usable_memory():
        raise NnsslError(
            f"{path} unpacks to {total / 2**30:,.0f} GiB, there are {usable_memory() / 2**30:,.0f} GiB of memory: refused"
        )
    for entry in entries:
        if entry.file_size > MOST_RATIO * max(entry.compress_size, 1):
            raise NnsslError(
                f"{path}: {entry.filename} unpacks to more than its bytes can hold: damaged or made to harm"
            )
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject:
            raise NnsslError(f"{path}: {entry.filename} holds Python objects, and loading them could run code: refused")
        declared = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or declared > entry.file_size:
            raise NnsslError(
                f"{path}: {entry.filename} declares {declared:,} bytes and holds {entry.file_size:,}: refused"
            )
