"""The one way to load a file of weights, whatever its format on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnssl.errors import MissingError, NnsslError
from nnssl.transfer import safetensors_files, torch_files

TENSORS = "network_weights"


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
