"""Reading and writing torch files: atomically, and without ever running code from a file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.files import atomic_path
from nnssl.transfer.torch_scan import scan_torch_file

_SCALAR = np.float64(0).__reduce__()[0]
_KINDS = ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
_NUMPY: list[Any] = [
    np.dtype, *(type(np.dtype(k)) for k in _KINDS),
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
]  # fmt: skip
"""NumPy numbers, which nnU-Net's checkpoints hold in their log, under the names of NumPy 1 and 2."""


def save(content: dict[str, Any], path: Path | str) -> None:
    """Write a torch file, complete or not at all.

    Raises:
        RuntimeError, OSError: the disk; `nnssl.disk.disk_error` finds out.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write(content, file)


def write(content: dict[str, Any], file: BinaryIO) -> None:
    """Put a torch file's bytes into an open file: then the disk's own error stands behind torch's, a path hides it."""
    torch.save(content, file)


def verify(path: Path | str) -> None:
    """Read a torch file's every byte back and compare it with the checksums inside, which torch itself does not.

    Raises:
        NnsslError: it is not whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise NnsslError(f"{path} is damaged ({' '.join(str(error).split())[:120] or 'it ends too early'})") from error
    except RuntimeError as error:  # a flipped bit in a header says "encrypted"
        raise NnsslError(f"{path} is damaged ({' '.join(str(error).split())[:120]})") from error
    if wrong is not None:
        raise NnsslError(f"{path} is damaged (checksum of {wrong})")


def peek(path: Path | str) -> dict[str, Any]:
    """As `load`, but the tensors stay on the disk until somebody looks at their values: quick in a large file.

    The file must not be written to meanwhile; another one may take its name.
    """
    return load(path, on_disk=True)


def load(path: Path | str, on_disk: bool = False) -> dict[str, Any]:
    """Read a torch file to the CPU with `weights_only=True`, after its declared sizes have been checked.

    Args:
        path: file.
        on_disk: map the tensors instead of reading them; refused in torch's oldest format.

    Raises:
        NnsslError: missing, damaged, not a torch file, declaring more than it holds, or holding more than tensors, plain
            values and NumPy numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    foreign = scan_torch_file(path).foreign
    if foreign:
        raise NnsslError(
            f"{path} holds more than tensors and plain values ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}), and loading it could run code: refused. Ask its maker for the bare "
            "weights, torch.save(model.state_dict(), FILE)"
        )
    try:
        with torch.serialization.safe_globals(_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk)
    except Exception as error:  # on a foreign file torch's reader stumbles wherever its bytes lead it
        raise NnsslError(f"{path} is damaged or not a torch file ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{path} does not hold a dictionary of weights but a {type(content).__name__}")
    return content
