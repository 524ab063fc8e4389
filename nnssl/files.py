"""The one way to write a file: complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success flush it to disk and rename it to `target`.

    A reader sees the old file or the new one, never half of one. On an error the temporary file is removed.
    The temporary name keeps the suffix because some writers choose their format by it.
    """
    target = Path(target)
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
        temporary.unlink(missing_ok=True)


def write_json(data: Any, target: Path | str) -> None:
    """Write `data` as indented JSON, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=True) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
