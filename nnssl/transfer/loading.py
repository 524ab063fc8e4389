"""The one way to load a file of weights, whatever its format on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnssl.errors import MissingError, NnsslError
from nnssl.transfer import safetensors_files, torch_files

TENSORS = "network_weights"
SURPRISES = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError)


@contextmanager
def no_surprise(where: str) -> Iterator[None]:
    """Errors of a damaged, foreign or edited file as one line: what it lacks shows only where it is used.

    Args:
        where: the file.

    Raises:
        NnsslError: instead of what else went wrong.
    """
    try:
        yield
    except NnsslError:
        raise
    except SURPRISES as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise NnsslError(
            f"{where} is damaged or edited: it does not hold what files of its kind hold ({what})"
        ) from error


def load_content(path: Path | str) -> dict[str, Any]:
    """Read a torch or safetensors file to the CPU as a dictionary; no code is run, and no size is believed unchecked.

    The tensors of a safetensors file come under `network_weights`, its texts under their own keys.

    Raises:
        NnsslError: missing, damaged, declaring more than it holds, or holding more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise NnsslError(f"{path} is a folder: name the file of weights in it")
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    if safetensors_files.is_safetensors(path):
        return safetensors_files.load(path, TENSORS)
    return torch_files.load(path)
