"""How much memory there is, and images that cannot fit into it: a damaged header may declare any size."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnssl.data.parallel import Failure

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
COPIES = 2
"""Reading and checking a case holds it at least so often."""


def usable_memory() -> int:
    """Bytes that this process may use at most: of the machine, its container (cgroup) and its limits (`ulimit -v`)."""
    found = [sys.maxsize]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in CGROUPS:
        text = Path(name).read_text(encoding="ascii").strip() if Path(name).is_file() else ""
        if text.isdecimal():
            found.append(int(text))
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] if limit != resource.RLIM_INFINITY else []
    except ImportError:  # not on Windows
        pass
    return min(n for n in found if n > 0)


def check_memory(shape: Sequence[int], what: str = "") -> None:
    """Refuse an image that cannot be held, before anything is allocated for it.

    Args:
        shape: voxels of all axes, channels and frames included.
        what: where the shape comes from, for the message.

    Raises:
        Failure: its voxels in float32 need more memory than there is.
    """
    size, there = 4 * math.prod(int(n) for n in shape), usable_memory()
    if size * COPIES > there:
        axes = "x".join(str(int(n)) for n in shape)
        raise Failure(
            f"{what}{axes} voxels need {size / 2**30:,.0f} GiB as float32, there are {there / 2**30:,.0f} GiB of memory: "
            "a damaged header, or an image for a larger machine"
        )
