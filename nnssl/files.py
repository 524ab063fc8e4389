"""The one way to write a file: complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nnssl.errors import NnsslError


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
        NnsslError: it is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise NnsslError(f"{path} is damaged: not valid JSON ({' '.join(str(error).split())[:150]})") from error


def read_yaml(path: Path, name: str) -> dict[Any, Any]:
    """A YAML file of 'key: value' lines that a user wrote.

    Raises:
        NnsslError: not YAML, or something else in it; one line that calls the file `name`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: its encoding, or a number of 5,000 digits
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise NnsslError(f"{name} is not valid YAML: {words[:200]}") from error
    if not isinstance(content, dict):
        raise NnsslError(f"{name} must hold 'key: value' lines")
    return content


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
