"""Ways to damage a file: bytes, text with numbers, and values in nested dictionaries and lists. All from a generator."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml

Rng = np.random.Generator
Mutation = Callable[[bytes, Rng], bytes]

INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 32767, -32768, 65535, 10**6, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-38, 3e38, 1e30, 0.5)
NUMBERS = (
    "0",
    "-1",
    "1e308",
    "1e999",
    "nan",
    "inf",
    "1000000",
    "99999999999999999999",
    "0.0",
    "",
    "x",
    "1 1",
    "-0",
    "1e-320",
)
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "1", "../../x", "a\nb",
    "\x00", "ä" * 300, [], {}, [None], [[1, [2]]], {"0": None}, [10**6, 10**6, 10**6], ["x"], [-1, 0, 0], {"x": {"y": []}},
)  # fmt: skip


def pick(rng: Rng, options: Any) -> Any:
    """One of a sequence."""
    return options[int(rng.integers(len(options)))]


def damage_bytes(content: bytes, rng: Rng, head: int = 0) -> bytes:
    """One to three damages: bits, extremes of any width, pieces lost, doubled, inserted, or the end cut off.

    Args:
        content: of the file.
        head: so many bytes at the beginning are hit half the time; 0 = no place is preferred.
    """
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        reach = head if head and rng.random() < 0.6 else len(data)
        at = int(rng.integers(min(reach, len(data))))
        length = int(rng.integers(1, 65))
        kind = pick(rng, ("bit", "byte", "integer", "integer", "float", "cut", "drop", "double", "insert", "zero"))
        if kind == "bit":
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            data[at] = int(rng.integers(256))
        elif kind in ("integer", "float"):
            _put_number(data, at, kind, rng)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif kind == "insert":
            data[at:at] = rng.bytes(length)
        else:
            data[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(data)


def _put_number(data: bytearray, at: int, kind: str, rng: Rng) -> None:
    order, code = pick(rng, "<>"), pick(rng, "bhiq" if kind == "integer" else "fd")
    width = struct.calcsize(code)
    value = pick(rng, INTEGERS if kind == "integer" else FLOATS)
    if kind == "integer":
        raw = (value % 2 ** (8 * width)).to_bytes(width, "little" if order == "<" else "big")
    else:
        raw = struct.pack(f"{order}{code}", value)
    at -= at % width
    data[at : at + width] = raw


def damage_head(head: int) -> Mutation:
    """`damage_bytes` that prefers a file's header."""
    return lambda content, rng: damage_bytes(content, rng, head)


def damage_gzip(content: bytes, rng: Rng) -> bytes:
    """Damage what is in a gzip file, or the gzip file itself."""
    if rng.random() < 0.2:
        return damage_bytes(content, rng)
    return gzip.compress(damage_bytes(gzip.decompress(content), rng, 352), 1)


def damage_text(content: bytes, rng: Rng) -> bytes:
    """Damage a text, or the text that a binary file begins with: numbers, lines, cells, encoding."""
    end = content.find(b"\n\n") + 2 if b"\n\n" in content else len(content)
    end = content.find(b"LOCAL\n") + 6 if b"LOCAL\n" in content else end
    text, rest = content[:end].decode("latin-1"), content[end:]
    for _ in range(int(rng.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [""]
        line = int(rng.integers(len(lines)))
        kind = pick(rng, ("number", "number", "number", "word", "lose", "twice", "cut", "byte", "long"))
        if kind == "number" and (found := list(re.finditer(r"-?\d+(\.\d+)?", text))):
            match = pick(rng, found)
            text = text[: match.start()] + pick(rng, NUMBERS) + text[match.end() :]
        elif kind == "word" and (found := list(re.finditer(r"[A-Za-z_]+", text))):
            match, other = pick(rng, found), pick(rng, found)
            text = text[: match.start()] + pick(rng, (other.group(), "", "LIST", "%03d", "../x")) + text[match.end() :]
        elif kind in ("lose", "twice", "long"):
            lines[line] = {
                "lose": "",
                "twice": lines[line] * 2,
                "long": lines[line].rstrip("\n") + "9" * 200_000 + "\n",
            }[kind]
            text = "".join(lines)
        elif kind == "cut":
            text = text[: int(rng.integers(len(text) + 1))]
        elif kind == "byte":
            at = int(rng.integers(len(text) + 1))
            text = text[:at] + pick(rng, ("\0", "\xff", '"', "\r", ",", ";", ":", "{", "- ", "&a [*a]")) + text[at:]
    return text.encode("latin-1") + rest


def damage_value(value: Any, rng: Rng) -> Any:
    """A copy of nested dictionaries and lists in which one place is odd, lost, doubled, renamed, or of another depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = pick(rng, list(value))
        kind = rng.random()
        if kind < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.17:
            return {(pick(rng, ("", "x", "0")) if k == key else k): v for k, v in value.items()}
        return {k: damage_value(v, rng) if k == key else v for k, v in value.items()}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        some = list(value)
        kind = rng.random()
        if kind < 0.15:
            del some[at]
        elif kind < 0.25:
            some.insert(at, some[at])
        else:
            some[at] = damage_value(some[at], rng)
        return type(value)(some)
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        return _damage_tensor(value, rng)
    return pick(rng, ODD)


def _damage_tensor(value: torch.Tensor, rng: Rng) -> torch.Tensor:
    changes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: value.flatten(),
        lambda: value.reshape(-1)[:0],
        lambda: torch.zeros(()),
        lambda: value[None],
        lambda: torch.cat([value, value]) if value.ndim else value,
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.bool),
        lambda: value.to(torch.float64),
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value,
        lambda: torch.zeros(1).expand(10**6, 10**6, 10**6),
        lambda: torch.zeros(1).expand(10**5, 10**5),
        lambda: value.transpose(0, -1) if value.ndim > 1 else value,
    )
    return pick(rng, changes)()


def damage_json(content: bytes, rng: Rng) -> bytes:
    """Damage the values of a JSON file, now and then its text."""
    if rng.random() < 0.15:
        return damage_bytes(content, rng)
    value = json.loads(content)
    for _ in range(int(rng.integers(1, 3))):
        value = damage_value(value, rng)
    return json.dumps(value).encode()


def damage_yaml(content: bytes, rng: Rng) -> bytes:
    """Damage the values of a YAML file, or its text."""
    if rng.random() < 0.3:
        return damage_text(content, rng)
    return yaml.safe_dump(damage_value(yaml.safe_load(content), rng), allow_unicode=True).encode()
