from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.data import readahead
from nnssl.data.cache import CaseCache
from nnssl.data.loader import CropDataset, crop_loader
from nnssl.data.pool import Pool, PoolCase
from nnssl.data.readahead import ReadAhead, fetch
from nnssl.data.sampling import CropSampler
from nnssl.data.store import save_case

SIZE, BATCH, AHEAD, END = (6, 7, 8), 3, 2, 40


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Small cases of two subjects, and one that is much larger than a crop."""
    rng = np.random.default_rng(0)
    cases = []
    for i in range(9):
        shape = (30, 30, 30) if i == 8 else (9, 8, 10)
        body = rng.integers(2, 6, (20, 3)).astype(np.int32) if i % 2 else np.zeros((0, 3), np.int32)
        seg, folder = np.zeros((1, *shape), np.int8), tmp_path / "data"
        folder.mkdir(exist_ok=True)
        save_case(folder / f"c{i}", rng.standard_normal((1, *shape)), seg, body, {}, (4, 4, 4), half=True)
        cases.append(PoolCase(f"c{i}", "data", shape, False, body=len(body), subject=f"s{i % 2}"))
    return Pool(tmp_path, tuple(cases))


@pytest.mark.parametrize("partners", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_file_is_named_before_its_batch_and_no_batch_twice(
    pool: Pool, workers: int, partners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[Path] = []
    monkeypatch.setattr(readahead, "fetch", lambda paths: named.extend(paths))
    sampler = CropSampler(pool, SIZE, 0, 0, 0.5)
    for worker in range(workers):  # torch hands out steps in turns
        dataset = CropDataset(pool, sampler, BATCH, range(1, 3), False, partners)
        ahead = ReadAhead(dataset.files, END, AHEAD)
        wanted: list[Path] = []
        named.clear()
        further = []
        for step in range(10 + worker, END, workers):
            ahead.before(step, workers)
            for n in (step * BATCH + 1, step * BATCH + 2):
                place = sampler(n)
                for case in [place.case, *([sampler.partner(n, place).case] if partners else [])]:
                    if case < 8:
                        body = [pool.body_path(case)] if pool.cases[case].body else []
                        wanted += [pool.image_path(case), *body]
            assert named[: len(wanted)] == wanted, "in the order in which they are read"
            further.append(len(named) - len(wanted))
        crops = 2 * (1 + partners)
        assert 0 < max(further) <= 2 * crops * AHEAD, "no further than it should look"
        assert further[-1] == 0, "nothing that will not be read"
        assert pool.image_path(8) not in named, "a crop needs a small part of a large file"


def test_none_ahead_names_none(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "fetch", lambda paths: pytest.fail("named"))
    ReadAhead(lambda number: [Path("file")], END, 0).before(0, 1)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_loader_names_as_many_crops_as_it_reads(pool: Pool, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview reads one batch, a validation some: the batches behind them are of no use to anyone."""
    small = Pool(pool.root, tuple(case for case in pool.cases[:8:2]))  # none has a file of body positions
    named: list[Path] = []
    monkeypatch.setattr(readahead, "fetch", lambda paths: named.extend(paths))
    dataset = CropDataset(small, CropSampler(small, SIZE, 0, 0, 0.5), BATCH, range(BATCH), False)
    for _ in crop_loader(dataset, range(20, 20 + steps), 0, pin=False, readahead=4):
        pass
    assert len(named) == steps * BATCH


def test_what_is_in_memory_is_not_named(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[Path] = []
    monkeypatch.setattr(readahead, "fetch", lambda paths: named.extend(paths))
    cache = CaseCache(pool, 1, 4 * 2 * 9 * 8 * 10)  # has room for four cases
    assert len(cache) == 4
    dataset = CropDataset(pool, CropSampler(pool, SIZE, 0, 0, 0.5), BATCH, range(BATCH), False, cache=cache)
    steps = range(12)  # four passes over the pool
    for _ in crop_loader(dataset, steps, 0, pin=False, readahead=AHEAD):
        pass
    assert {pool.image_path(case) for case in range(8)} == set(named) - {pool.body_path(case) for case in range(9)}
    named.clear()
    for _ in crop_loader(dataset, steps, 0, pin=False, readahead=AHEAD):
        pass
    kept = {path(case) for case in range(4) for path in (pool.image_path, pool.body_path)}
    assert named and not kept & set(named)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_crops_with_and_without(pool: Pool, workers: int) -> None:
    def batches(ahead: int) -> list[dict[str, torch.Tensor]]:
        sampler = CropSampler(pool, SIZE, 0, 0, 0.5)
        dataset = CropDataset(pool, sampler, BATCH, range(BATCH), False, partners=True)
        return list(crop_loader(dataset, range(6), workers, pin=False, readahead=ahead))

    for a, b in zip(batches(0), batches(AHEAD), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see which files are open")
def test_a_loader_closes_its_files_with_its_last_user(pool: Pool) -> None:
    """Every epoch and every validation has a loader of its own; those that wait for the collector keep files and memory."""

    def opened() -> int:
        links = (str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return sum(link.startswith(str(pool.root)) for link in links)

    def read() -> int:
        dataset = CropDataset(pool, CropSampler(pool, SIZE, 0, 0, 0.5), BATCH, range(BATCH), False)
        batches = iter(crop_loader(dataset, range(6), 0, pin=False, readahead=AHEAD))
        next(batches)
        return opened()

    gc.collect()
    gc.disable()
    try:
        assert read() > 0
        assert opened() == 0
    finally:
        gc.enable()


def test_a_file_that_was_named_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3 * readahead.PIECE + 5))
    _forget(path)
    if _in_memory(path):
        pytest.skip("this file system keeps its files in memory, or cannot tell")
    fetch([tmp_path / "missing", path])
    deadline = time.monotonic() + 10
    while not _in_memory(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _in_memory(path)


def _forget(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)  # what is not written yet stays
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def _in_memory(path: Path) -> bool:
    """Whether all pages of a file are in the system's memory, without touching them (man mincore)."""
    if not sys.platform.startswith("linux"):
        return True
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        found = (ctypes.c_ubyte * -(-len(view) // mmap.PAGESIZE))()
        known = ctypes.CDLL(None).mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)), found) == 0
        del view
        return not known or all(page & 1 for page in found)
