"""The one way to write a file, complete or not at all, and to read a text that others may have written."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nnssl.errors import MissingError, NnsslError, shortened
from nnssl.nesting import DEEPEST, depth_of_tree, extent


@contextmanager
def atomic_path(target: Path | str, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success flush it to disk and rename it to `target`.

    A reader sees the old file or the new one, never half of one. On an error the temporary file is removed; one that a
    kill left behind begins with a dot and has `.tmp` in its name (`leftovers`). The temporary name keeps the suffix because
    some writers choose their format by it.

    Args:
        target: file to write.
        make_folder: make the target's folder if it is missing. False where a missing folder means that a disk has gone:
            making it anew would write below the place where the disk was mounted.
    """
    target = Path(target)
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes)[-20:]
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp" + suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp made it private; shared clusters expect the user's umask
        temporary.replace(target)
    except OSError as error:
        if (
            error.errno is not None and error.filename is None
        ):  # of a write into an open file, which does not say what is full or gone
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(OSError):  # where the disk has gone, the error that matters is on its way already
            temporary.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of `atomic_path` in a folder. Those of a live process are among them, so know that there is none."""
    return sorted(folder.glob(".*.tmp*"))


def flush_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, so that they outlive a power cut; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(data: Any, target: Path | str) -> None:
    """Write `data` as indented JSON, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=True) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        NnsslError: it is not valid JSON, says something twice, or is nested too deeply.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise NnsslError(f"{path} is damaged: not valid JSON ({' '.join(str(error).split())[:150]})") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text that others may have written.

    Raises:
        json.JSONDecodeError: it is none.
        ValueError: a name that stands twice, a number of thousands of digits, or brackets in one another without end.
    """
    try:
        value = json.loads(text, object_pairs_hook=_named_once)
    except RecursionError:
        value = None
    if (value is None and text.strip() != "null") or depth_of_tree(value) > DEEPEST:
        raise ValueError(f"lists in one another, more than {DEEPEST} deep")
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two entries counts is each reader's own choice, so a check may see another one than its user."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"'{twice[:40]}' stands there twice")
    return found


def check_number(content: Any, key: str, newest: int, where: Path | str) -> None:
    """Refuse a file of a newer format.

    Args:
        content: of the file; anything but a dictionary is its reader's business.
        key: that holds the format's number; a file without it is of format 1.
        newest: that is read.
        where: the file, for the message.

    Raises:
        NnsslError: a newer format, or no number.
    """
    number = content.get(key, 1) if isinstance(content, Mapping) else 1
    if type(number) is not int or number < 1:
        raise NnsslError(f"{where} is damaged: its {key} is {str(number)[:40]}, and should be a number of a format")
    if number > newest:
        raise NnsslError(f"{where} has format {str(number)[:20]}, this version reads up to {newest}: update nnssl")


class _Loader(yaml.SafeLoader):
    """A name that stands twice is an error here: one of two initialisations would vanish without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [(k.tag, k.value) for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.value != "<<"]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{name[1][:40]}' stands there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text that others may have written.

    Raises:
        yaml.YAMLError: it is none, or says something twice.
        ValueError: a number of thousands of digits, or lists in one another without end, by brackets or by reference.
    """
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
        values, depth = extent(value)
    except RecursionError:
        values, depth = 0, DEEPEST + 1
    if values > 10 * len(text) + 1000 or depth > DEEPEST:
        raise ValueError("lists in one another, too deep or too often")
    return value


def read_yaml(path: Path, name: str) -> dict[Any, Any]:
    """A YAML file of 'key: value' lines that a user wrote.

    Raises:
        NnsslError: not YAML, or something else in it; one line that calls the file `name`.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: its encoding, too
        words = " ".join(str(error).split())
        raise NnsslError(f"{name} is not valid YAML: {words[:200]}") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{name} must hold 'key: value' lines")
    return content


def read_rows(path: Path, needed: Sequence[str] = (), by_hand: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV file with a header.

    Args:
        path: the file.
        needed: columns that must be there.
        by_hand: a table of people's: maybe with semicolons in place of commas, with blanks around, and with empty rows.

    Returns:
        Names of the columns, and a row for each line; an empty text where a line is too short.

    Raises:
        NnsslError: missing, not a table in UTF-8, without a column, or with two columns of one name.
    """
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = _delimiter(file.readline()) if by_hand else ","
            file.seek(0)
            reader = csv.DictReader(file, restval="", delimiter=delimiter)
            columns = [name.strip() if by_hand else name for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [{k: v.strip() if by_hand else v for k, v in row.items() if k is not None} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise NnsslError(f"{path} is not a readable CSV file in UTF-8: {error}") from error
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise NnsslError(f"{path} has two columns named {twice[0]}: take one of them out, or rename it")
    if by_hand:
        rows = [row for row in rows if any(row.values())]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise NnsslError(f"{path} is damaged: it has no column {missing[0]}, but {shortened(columns, 20) or 'none'}")
    return columns, rows


def _delimiter(header: str) -> str:
    """Semicolon or comma, whichever a table's first line has more of; a name in quotes may hold the other one."""
    return max(",;", key=re.sub(r'"[^"]*"', "", header).count)


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
