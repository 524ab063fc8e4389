"""How many processors this process may use: what the scheduler grants, not what the machine has."""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """Processors in this process' affinity mask (on systems without one: all)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
