"""How many processors this process may use: what the scheduler grants, not what the machine has."""

from __future__ import annotations

import os

MOST_READERS = 8


def usable_cpus() -> int:
    """Processors in this process' affinity mask (on systems without one: all)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_readers(processes: int = 1) -> int:
    """Reading processes of each of `processes` trainings on this machine, where `workers` is not set."""
    return max(1, min(MOST_READERS, usable_cpus() // processes - 1))
