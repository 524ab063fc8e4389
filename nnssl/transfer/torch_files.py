"""Reading and writing torch files: atomically, and without ever running code from a file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.files import atomic_path


def save(content: dict[str, Any], path: Path | str) -> None:
    """Write a torch file, complete or not at all."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path: Path | str) -> dict[str, Any]:
    """Read a torch file to the CPU with `weights_only=True`.

    Raises:
        NnsslError: missing, damaged, not a torch file, or holding more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise NnsslError(
                f"{path} holds more than tensors and plain values, and loading it could run code: refused. "
                "Only files written by nnssl or plain state dicts can be read"
            ) from error
        raise NnsslError(f"{path} is damaged or not a torch file") from error
    except Exception as error:  # on a foreign file torch's reader stumbles wherever its bytes lead it
        raise NnsslError(f"{path} is damaged or not a torch file ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{path} does not hold a dictionary of weights")
    return content
