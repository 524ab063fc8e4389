"""Numbers, sizes and names as words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path


def dataset_number(name: str) -> str:
    """`Dataset027_ACDC` -> `27`."""
    match = re.match(r"Dataset0*(\d+)(_|$)", name)
    return match.group(1) if match else name


def made(path: Path) -> str:
    """When a file was last written, local time."""
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def size_of(path: Path) -> int:
    """Bytes of a file or, one level deep, of a folder; 0 where a link leads nowhere."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return path.stat().st_size
    except OSError:  # a dangling link: the case is among the skipped ones
        return 0


def times(values: Iterable[float]) -> str:
    """`(1.5, 1.5, 10)` -> `1.5 × 1.5 × 10`, three significant digits where there is a fraction."""
    return " × ".join(number(v) for v in values)


def number(value: float) -> str:
    """A number with as many digits as say something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def bytes_as_text(size: int) -> str:
    """Bytes with a binary unit."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def percent(share: float) -> str:
    """A share as percent; never 0 or 100 when it is not."""
    value = 100 * share
    if 0 < value < 1 or 99 < value < 100:
        return f"{value:.2g} %" if value < 1 else f"{min(value, 99.9):.1f} %"
    return f"{value:.0f} %"
