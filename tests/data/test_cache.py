from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.data import cache as caching
from nnssl.data import checksums
from nnssl.data.cache import CaseCache, make_cache, stored_bytes
from nnssl.data.checksums import FirstReads, checksum_of
from nnssl.data.loader import CropDataset, crop_loader
from nnssl.data.pool import Pool, PoolCase
from nnssl.data.sampling import CropSampler
from nnssl.data.store import save_case
from nnssl.errors import NnsslError

SHAPES = [(9, 12, 10), (6, 8, 8), (12, 5, 9), (10, 10, 10)]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Cases of both types, one with a value that float16 cannot hold."""
    rng = np.random.default_rng(0)
    cases = []
    for i, shape in enumerate(SHAPES):
        data = rng.standard_normal((2, *shape))
        data[0, 0, 0, 0] = 1e6 if i == 3 else 1
        seg, body = np.zeros((1, *shape), np.int8), np.zeros((0, 3), np.int32)
        save_case(tmp_path / f"case_{i}", data, seg, body, {}, (4, 4, 4), half=i > 0)
        cases.append(PoolCase(f"case_{i}", ".", shape, labelled=i == 0))
    return Pool(tmp_path, tuple(cases))


def dataset(pool: Pool, cache: CaseCache | None = None, check: FirstReads | None = None) -> CropDataset:
    return CropDataset(pool, CropSampler(pool, (6, 7, 8), 0, 0, 0.5), 3, range(3), False, cache=cache, check=check)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_crops_from_memory(pool: Pool, workers: int) -> None:
    cache = CaseCache(pool, 2, 10**6)
    assert len(cache) == 4
    steps = range(8)
    wanted = list(crop_loader(dataset(pool), steps, 0, pin=False))
    for _ in range(2):  # filled, and read again
        got = list(crop_loader(dataset(pool, cache), steps, workers, pin=False))
        for a, b in zip(wanted, got, strict=True):
            assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    kinds = list(cache._types[:4])
    assert kinds == [2, 1, 1, 0], "filled by the reading processes; what has no room in float16 stays in its file"


def test_from_memory_the_files_are_not_read(pool: Pool) -> None:
    cache = CaseCache(pool, 2, 10**6)
    plain, cached = dataset(pool), dataset(pool, cache)
    wanted = [plain[s]["images"] for s in range(8)]
    for step in range(8):
        cached[step]

    class Unreadable:
        dtype, shape = np.dtype(np.float16), (2, 6, 8, 8)

        def __getitem__(self, _: object) -> np.ndarray:
            raise AssertionError("read from the file")

    assert cache.array(pool.image_path(1), Unreadable())[0].shape == (6, 8, 8)
    assert all(torch.equal(a, cached[s]["images"]) for s, a in enumerate(wanted))


def test_a_limit_takes_the_first_cases(pool: Pool) -> None:
    sizes = stored_bytes(pool, 2)
    assert sizes[0] == 2 * 9 * 12 * 10 * 4
    assert sizes[1] == 2 * 6 * 8 * 8 * 2
    assert len(CaseCache(pool, 2, sizes[0] + sizes[1])) == 2
    assert len(CaseCache(pool, 2, sizes[0] - 1)) == 0


def test_auto(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (6, 7, 8)
    assert make_cache("none", pool, 2, size, 10**6, 1)[0] is None
    cache, [line] = make_cache("auto", pool, 2, size, 10**6, 1)
    assert cache is not None
    assert "4 of 4 cases" in line
    assert make_cache("auto", pool, 2, size, 4, 1)[0] is None, "so few crops are not worth unpacking whole cases"
    monkeypatch.setattr(caching, "free_memory", lambda: 4 * sum(stored_bytes(pool, 2)))
    assert make_cache("auto", pool, 2, size, 10**6, 1)[0] is not None
    assert make_cache("auto", pool, 2, size, 10**6, 2)[0] is None, "two processes would need twice as much"
    monkeypatch.undo()
    assert caching.free_memory() > 10**6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_a_damaged_case_is_one_line_on_every_way(pool: Pool, workers: int, cached: bool) -> None:
    """Read in this process or another, from its file or on its way into memory."""
    path = pool.image_path(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = b"\xff" * 200
    path.write_bytes(content)
    cache = CaseCache(pool, 2, 10**6) if cached else None
    with pytest.raises(NnsslError, match=r"case_1\.b2nd is damaged .* run nnssl_plan_and_preprocess again") as caught:
        list(crop_loader(dataset(pool, cache), range(8), workers, pin=False))
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_bit_is_found_when_a_run_reads_the_case_first(pool: Pool, workers: int) -> None:
    whole = Pool(pool.root, tuple(replace(c, checksum=checksum_of(pool.root / c.name)) for c in pool.cases))
    flip(whole.image_path(2))
    assert len(list(crop_loader(dataset(whole), range(8), workers, pin=False))) == 8, "blosc2 itself sees nothing"
    with pytest.raises(
        NnsslError, match=r"case_2\.b2nd is not what was written \(checksum\).*nnssl_doctor --data.*--c"
    ):
        list(crop_loader(dataset(whole, check=FirstReads(whole)), range(8), workers, pin=False))


def flip(path: Path) -> None:
    """One bit in the middle of a stored number."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_case_is_compared_once_and_by_one_process(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = Pool(pool.root, tuple(replace(c, checksum=checksum_of(pool.root / c.name)) for c in pool.cases[:3]))
    check, log = FirstReads(known), tmp_path / "compared"
    crc = checksums._crc
    monkeypatch.setattr(checksums, "_crc", lambda path: (log.open("a").write(f"{path.name}\n"), crc(path))[1])
    for _ in range(3):  # as the validation of every epoch
        list(crop_loader(dataset(pool, check=check), range(4), 1, pin=False))
    assert sorted(log.read_text().split()) == ["case_0.b2nd", "case_1.b2nd", "case_2.b2nd"], "the last has no checksum"
    for _ in range(2):
        pickle.loads(pickle.dumps(check))(known.image_path(0))  # as spawned processes get it: each for itself
    assert log.read_text().count("case_0") == 3
    known.image_path(1).unlink()
    with pytest.raises(NnsslError, match=r"case_1\.b2nd cannot be read \(No such file"):
        FirstReads(known)(known.image_path(1))
