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
from nnssl.files import atomic_path, parse_json

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
    content = {k: _parsed(v, f"{path}, {k[:40]}") for k, v in metadata.items()}
    weights |= _second_names(content.pop(ALIASES, {}), weights, path)
    return {**content, tensors: weights}


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text
    except ValueError as error:
        raise NnsslError(f"{where} is damaged ({' '.join(str(error).split())[:120]})") from error


def _second_names(aliases: Any, weights: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor of another name. In files of other programs the key may mean anything, and a text is passed over."""
    if not isinstance(aliases, dict):
        return {}
    for second, first in aliases.items():
        if not isinstance(first, str) or first not in weights:
            raise NnsslError(f"{path}: a second name of {str(first)[:80]}, which is not in the file")
        if second in weights:
            raise NnsslError(f"{path}: {second[:80]} is a tensor and a second name of {first[:80]} as well")
    return {second: weights[first] for second, first in aliases.items()}
