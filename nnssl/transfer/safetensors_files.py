"""safetensors files: tensors and a block of text, no pickle.

Values other than tensors are JSON, one text per key. The format stores no tensor twice, so second names are listed under
`aliases` and come back as the very tensors of the first ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnssl.errors import MissingError, NnsslError
from nnssl.files import atomic_path

ALIASES = "aliases"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: the length of its header, then the header, a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK"


def save(content: Mapping[str, Any], tensors: str, path: Path | str) -> None:
    """Write a dictionary of plain values and of one dictionary of tensors.

    Args:
        content: what to write.
        tensors: the key under which `content` holds the tensors.
        path: complete or not at all.
    """
    from safetensors.torch import save_file

    first: dict[int, str] = {}
    aliases = {}
    for key, value in content[tensors].items():
        if value.data_ptr() and value.data_ptr() in first:
            aliases[key] = first[value.data_ptr()]
        first.setdefault(value.data_ptr(), key)
    own = {k: v.detach().cpu().contiguous() for k, v in content[tensors].items() if k not in aliases}
    texts = {k: json.dumps(v) for k, v in content.items() if k != tensors} | {ALIASES: json.dumps(aliases)}
    with atomic_path(path) as temporary:
        save_file(own, temporary, metadata={"format": "pt", **texts})


def load(path: Path | str, tensors: str) -> dict[str, Any]:
    """Read a safetensors file to the CPU. Texts that are no JSON stay texts.

    Args:
        path: the file.
        tensors: the key for its tensors in what is returned.

    Raises:
        NnsslError: missing, damaged, or declaring more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise NnsslError(f"{path} is a safetensors file: pip install safetensors") from error
    try:
        with safe_open(path, framework="pt", device="cpu") as file:  # checks every declared size against the file's
            weights: dict[str, torch.Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except Exception as error:  # its Rust core raises SafetensorError, or OverflowError, OSError, ... by what it meets
        raise NnsslError(
            f"{path} is damaged or not a safetensors file ({' '.join(str(error).split())[:120]})"
        ) from error
    content = {k: _parsed(v) for k, v in metadata.items()}
    aliases = content.pop(ALIASES, {})
    if isinstance(aliases, dict):
        missing = [first for first in aliases.values() if first not in weights]
        if missing:
            raise NnsslError(f"{path}: a second name of {missing[0]}, which is not in the file")
        weights |= {second: weights[first] for second, first in aliases.items()}
    return {**content, tensors: weights}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
