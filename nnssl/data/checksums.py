"""Checksums of preprocessed files: a flipped bit on a disk is found and named, not trained on.

They are made when a case is preprocessed and lie in the pool's index. Reading every file whenever a run starts would cost as
much as an epoch, so a start compares sizes only (what was cut short by a full disk or a copy that stopped), and
`nnssl_doctor --data` reads everything. Blosc2 itself has no checksum. Folders without any keep working.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.store import BODY_SUFFIX, PREPROCESS_AGAIN
from nnssl.errors import NnsslError

FILES = (".b2nd", "_seg.b2nd", BODY_SUFFIX)
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
