"""Limits of the machine and its container: processors, open files, shared memory, compiler, and speed of the store."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from nnssl.data.cpus import default_readers, usable_cpus
from nnssl.data.memory import usable_memory
from nnssl.data.store import CaseReader, save_case
from nnssl.doctor.findings import Finding, ok, problem, warning

QUOTAS = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
SHARED = Path("/dev/shm")
BATCH = 16
"""Crops of `CROP` that readers are taken to hold ready: the most that plans of size M to XL have in 3D, as float32."""
FILES = 1024
"""Every worker keeps 64 cases open, and torch opens a descriptor per tensor in flight."""
CROP = (96, 96, 96)
CASE = (1, 128, 160, 160)
SLOW = 50.0
"""Crops of 96 x 96 x 96 float16 per second and worker (local disks and a warm cache give several hundred) below which
reading, and not the GPU, is likely to decide how fast a run is."""


def cpu_quota() -> float | None:
    """Processors that the container may use at most; None = all."""
    if QUOTAS[0].is_file():
        quota, _, period = QUOTAS[0].read_text(encoding="ascii").strip().partition(" ")
        return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None
    if QUOTAS[1].is_file():
        quota = QUOTAS[1].read_text(encoding="ascii").strip()
        period = QUOTAS[1].with_name("cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return int(quota) / int(period) if quota.isdecimal() else None
    return None


def processors() -> Iterator[Finding]:
    """Processors that may be used, and whether a quota says less than their number."""
    usable, there, quota = usable_cpus(), os.cpu_count() or 1, cpu_quota()
    if quota is not None and quota < usable - 0.5:
        yield warning(
            "processors",
            f"{usable} are visible, but the container may use {quota:g}: that many workers would wait for each other",
            f"set workers={max(1, int(quota))} (--set) and -np {max(1, int(quota))}, or raise the container's quota",
        )
    elif usable < there:
        yield ok("processors", f"{usable} of {there}, as the scheduler grants")
    else:
        yield ok("processors", str(usable))
    yield ok("memory", f"{usable_memory() / 2**30:.0f} GiB")


def open_files() -> Iterator[Finding]:
    """The limit of open files."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        upto = "" if hard == resource.RLIM_INFINITY else f" (at most {hard} here)"
        yield warning("open files", f"at most {soft}", f"ulimit -n 4096{upto} in the shell or job script")
    else:
        yield ok("open files", f"at most {soft}")


def shared_memory() -> Iterator[Finding]:
    """Size of /dev/shm, where readers hand batches over, beside what they need: Docker gives 64 MiB unless asked."""
    if not SHARED.is_dir():
        return
    from nnssl.data.loader import BATCHES_READY

    usage, readers = shutil.disk_usage(SHARED), default_readers()
    of_one = BATCHES_READY * BATCH * prod(CROP) * np.dtype(np.float32).itemsize
    says = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free in {SHARED}"
    if usage.free >= readers * of_one:
        yield ok("shared memory", says)
        return
    yield (problem if usage.free < readers * of_one / 2 else warning)(
        "shared memory",
        f"{says}; {readers} readers, as many as a run here has unless set, may need {readers * of_one / 2**30:.1f} "
        f"({BATCHES_READY} batches of {BATCH} x {'x'.join(map(str, CROP))} each)",
        f"start the container with --shm-size=8g (or --ipc=host), or use --set workers={usage.free // of_one}",
    )


def compiler() -> Iterator[Finding]:
    """What torch.compile needs: a C compiler, and Python's headers."""
    found = next((c for c in (os.environ.get("CXX"), "g++", "clang++", "cl") if c and shutil.which(c)), None)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    mend = "install them (apt: g++ python3-dev), or export nnUNet_compile=f"
    if found is None:
        yield warning("compiler", "no C++ compiler: torch.compile will fail or be left out", mend)
    elif not header.is_file():
        yield warning("compiler", f"{found}, but Python's headers are missing ({header})", mend)
    else:
        yield ok("compiler", found)


def store_speed(folder: Path) -> Iterator[Finding]:
    """How fast one process reads crops from a case that is written to a folder for this."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=CASE).astype(np.float32)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".nnssl_doctor.") as name:
            target = Path(name) / "case"
            save_case(target, data, np.zeros(CASE, np.int8), np.zeros((0, 3), np.int32), {}, CROP, half=True)
            rate = _crops_per_second(target.with_name("case.b2nd"), rng)
    except OSError as error:
        yield problem(
            "reading crops", f"cannot be tried in {folder} ({error.strerror})", "make room, or mend its rights"
        )
        return
    says = f"{rate:,.0f} crops of {'x'.join(map(str, CROP))} per second and worker"
    if rate < SLOW:
        yield warning("reading crops", says, "more workers (--set workers=N); is another job using disk or processors?")
    else:
        yield ok("reading crops", says)


def _crops_per_second(path: Path, rng: np.random.Generator, seconds: float = 1.0) -> float:
    reader, done = CaseReader(), 0
    reader.crop(path, (0, 0, 0), CROP)
    begin = time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        reader.crop(path, [int(rng.integers(0, n - c + 1)) for n, c in zip(CASE[1:], CROP)], CROP)
        done += 1
    return done / passed
