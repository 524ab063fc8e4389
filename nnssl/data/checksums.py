"""Checksums of preprocessed files: a flipped bit on a disk is found and named, not trained on.

They are made when a case is preprocessed and lie in the pool's index. Reading every file whenever a run starts would keep it
waiting, so a start compares sizes only (what was cut short by a full disk or a copy that stopped); an image is compared with
its checksum when the run reads it for the first time; and `nnssl_doctor --data` reads everything. Blosc2 itself has no
checksum: most flipped bits give other voxels, and no error. Folders without checksums keep working.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.store import BODY_SUFFIX, PREPROCESS_AGAIN
from nnssl.errors import NnsslError

IMAGE = ".b2nd"
FILES = (IMAGE, "_seg.b2nd", BODY_SUFFIX)
"""Of a case, what is read in training. nnU-Net's properties are small and its own business."""
PIECE = 2**22
SHOWN = 3


def checksum_of(target: Path) -> str:
    """Size and CRC-32 of each file of a case that lies there.

    Args:
        target: folder / case name.
    """
    return ",".join(f"{suffix}:{_size(path)}:{_crc(path):08x}" for suffix, path in _files(target) if path.is_file())


def check_sizes(pool: Pool) -> None:
    """Refuse a pool with files that are missing or not as long as they were written. Reads no file.

    Raises:
        NnsslError: the first ones, by name.
    """
    wrong = [line for i in range(len(pool)) for line in _differences(pool, i, whole=False)]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise NnsslError(f"damaged: {'; '.join(wrong[:SHOWN])}{more}. For each case, {PREPROCESS_AGAIN}")


def damaged_files(pool: Pool, index: int) -> list[str]:
    """What is wrong with the files of a case, after reading all of them; empty also where there are no checksums."""
    return list(_differences(pool, index, whole=True))


def has_checksums(case: PoolCase) -> bool:
    """Whether the case was preprocessed by a version that made them."""
    return bool(_parts(case.checksum))


class FirstReads:
    """Compares the image of a case with its checksum before a run reads it for the first time.

    Reading processes that are made by fork share what they know; others compare each for itself.

    Args:
        pools: of the run.
    """

    def __init__(self, *pools: Pool) -> None:
        self._known: dict[Path, tuple[int, int]] = {}
        for pool in pools:
            for index, case in enumerate(pool.cases):
                for suffix, _, crc in _parts(case.checksum):
                    if suffix == IMAGE:
                        self._known.setdefault(pool.image_path(index), (len(self._known), crc))
        self._compared: Any = mmap.mmap(-1, max(len(self._known), 1))

    def __getstate__(self) -> dict[Path, tuple[int, int]]:
        return self._known

    def __setstate__(self, known: dict[Path, tuple[int, int]]) -> None:
        self._known, self._compared = known, bytearray(len(known))

    def __call__(self, path: Path) -> None:
        """Compare, if this has not been done and there is a checksum.

        Raises:
            NnsslError: the file is missing or not what was written.
        """
        number, crc = self._known.get(path, (-1, 0))
        if number < 0 or self._compared[number]:
            return
        try:
            found = _crc(path)
        except OSError as error:
            raise NnsslError(f"{path} cannot be read ({error.strerror or error}): {PREPROCESS_AGAIN}") from error
        if found != crc:
            raise NnsslError(
                f"{path} is not what was written (checksum), so its image is damaged. Look for more with nnssl_doctor "
                f"--data; for each case, {PREPROCESS_AGAIN}. Then go on with --c"
            )
        self._compared[number] = 1


def _differences(pool: Pool, index: int, whole: bool) -> Iterator[str]:
    case = pool.cases[index]
    for suffix, size, crc in _parts(case.checksum):
        path = pool.image_path(index).with_name(case.name + suffix)
        if not path.is_file():
            yield f"{path} is missing"
        elif _size(path) != size:
            yield f"{path} has {_size(path):,} bytes, {size:,} were written"
        elif whole and _crc(path) != crc:
            yield f"{path} is not what was written (checksum)"


def _parts(checksum: str) -> list[tuple[str, int, int]]:
    """Suffix, size and CRC-32 of each file; those of another form, of a later version perhaps, are passed over."""
    found = []
    for part in checksum.split(","):
        suffix, size, crc = [*part.split(":"), "", ""][:3]
        if suffix in FILES and size.isdecimal() and len(crc) == 8 and set(crc) <= set("0123456789abcdef"):
            found.append((suffix, int(size), int(crc, 16)))
    return found


def _files(target: Path) -> Iterator[tuple[str, Path]]:
    return ((suffix, target.with_name(target.name + suffix)) for suffix in FILES)


def _size(path: Path) -> int:
    return path.stat().st_size


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value = zlib.crc32(piece, value)
    return value
