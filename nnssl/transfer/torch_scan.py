"""What a torch file declares, read without running or allocating anything that it asks for.

`torch.load(weights_only=True)` runs no code, but it believes the sizes in a file. Here the pickle is walked with inert
stand-ins for every name it holds, and what it declares is compared with the bytes that are there.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, cast

from nnssl.errors import NnsslError
from nnssl.transfer.pickle_walk import Scan, walk

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def scan_torch_file(path: Path) -> Scan:
    """Walk a torch file's pickle and compare what it declares with the bytes that are there.

    Raises:
        NnsslError: the file is damaged, no torch file, or declares more than it holds.
    """
    size = path.stat().st_size
    try:
        scan = _scan_zip(path, size) if zipfile.is_zipfile(path) else _scan_legacy(path, size)
    except NnsslError:
        raise
    except Exception as error:  # a foreign file leads a parser wherever its bytes point
        raise NnsslError(f"{path} is damaged or not a torch file ({' '.join(str(error).split())[:120]})") from error
    if scan.wrong and not scan.foreign:
        raise NnsslError(
            f"{path} declares {scan.wrong[0]}, more than it may hold: damaged or made to harm, refused. Ask its maker for "
            "the bare weights, torch.save(model.state_dict(), FILE)"
        )
    return scan


def _scan_zip(path: Path, size: int) -> Scan:
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: e for e in archive.infolist()}
        pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise NnsslError(f"{path} is an archive, but not a torch file (it holds {_some(list(entries))})")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise NnsslError(
                f"{path} is a TorchScript program: save its weights with torch.save(model.state_dict(), FILE)"
            )
        declared = sum(e.file_size for e in archive.infolist())
        if declared > size or any(e.compress_type != zipfile.ZIP_STORED for e in archive.infolist()):
            raise NnsslError(
                f"{path}: its entries unpack to {declared / 2**20:,.1f} MiB, the file has {size / 2**20:,.1f}; torch does "
                "not compress, so this is not a file of weights: refused"
            )
        scan = Scan()
        with archive.open(pickles[0]) as file:
            walk(cast(BinaryIO, file), entries[pickles[0]].file_size, scan)
        for storage in scan.storages.values():
            entry = entries.get(f"{root}data/{storage.record}")
            there = entry.file_size if entry else 0
            if storage.numel * storage.itemsize > there:
                scan.wrong.append(
                    f"{storage.numel:,} values of {storage.itemsize} bytes where there are {there:,} bytes"
                )
    return scan


def _scan_legacy(path: Path, size: int) -> Scan:
    """torch's format until 1.5: magic number, protocol, system, content and storage keys pickled one after another."""
    scan = Scan()
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            raise NnsslError(f"{path} is damaged or not a torch file")
        file.seek(0)
        first = walk(file, size, scan)
        if first == LEGACY_MAGIC:
            walk(file, size - file.tell(), scan, times=3)
        elif not scan.foreign:
            raise NnsslError(f"{path} is damaged or not a torch file (a pickle, but not of torch)")
    total = sum(s.numel * s.itemsize for s in scan.storages.values())
    if total > size:
        scan.wrong.append(f"tensors of {total:,} bytes in a file of {size:,}")
    return scan


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
