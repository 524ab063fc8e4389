from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnssl.data.pool import Pool, PoolCase
from nnssl.data.slice_hashes import _of_case, known_slices, slice_hashes, thin, thinning_report
from nnssl.data.store import save_case
from nnssl.data.thinning import KeptSlices, bit_distance, keep_apart, slice_hash
from nnssl.errors import NnsslError


def picture(seed: int, shape: tuple[int, int] = (60, 48)) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).standard_normal((1, *shape)), (0, 4, 4)).astype(np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(bit_distance(np.array([slice_hash(a)], np.uint64), np.array([slice_hash(b)], np.uint64))[0])


def test_a_hash_sees_the_picture_and_not_its_brightness() -> None:
    a = picture(0)
    noise = 0.05 * a.std() * np.random.default_rng(9).standard_normal(a.shape)
    assert distance(a, 7 * a + 100) == 0
    assert distance(a, a.astype(np.float16)) <= 2
    assert distance(a, a + noise) <= 4
    assert distance(a, np.concatenate([a, 0.5 * a])) == 0, "channels that agree"
    unrelated = [distance(picture(i), picture(i + 100)) for i in range(40)]
    assert 28 < np.mean(unrelated) < 36
    assert min(unrelated) > 12


def test_bit_distance_against_counting_by_hand() -> None:
    a, b = np.random.default_rng(0).integers(0, 2**63, (2, 50), dtype=np.uint64)
    assert bit_distance(a, b).tolist() == [bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b)]


def test_kept_slices_are_apart_and_dropped_ones_are_near_a_kept_one() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 12, dtype=np.uint64)
    hashes = np.array([h ^ np.uint64(1 << int(rng.integers(63))) for h in np.repeat(hashes, 5)])
    for limit in (0, 2, 6):
        like = keep_apart(hashes, limit)
        kept = np.flatnonzero(like == np.arange(60))
        apart = bit_distance(hashes[kept][:, None], hashes[kept][None])
        assert (apart[~np.eye(len(kept), dtype=bool)] > limit).all()
        assert (bit_distance(hashes, hashes[like]) <= limit).all()
        assert set(like) == set(kept)
    assert len(kept) == 12


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """a0 and a1: one subject's frames, the second the same but for its last slice; b: two pictures thrice, and air."""
    first = np.stack([picture(i)[0] for i in range(6)])[None]
    second = first.copy()
    second[0, 5] = picture(77)[0]
    third = np.stack([picture(i)[0] for i in (20, 20, 20, 21, 21, 21)] + [np.full((60, 48), -2.0, np.float32)] * 3)[
        None
    ]
    (tmp_path / "data").mkdir()
    cases = []
    for name, data, subject in (("a0", first, "a"), ("a1", second, "a"), ("b", third, "")):
        body = np.stack([np.arange(data.shape[1])] * 3, axis=1)
        save_case(tmp_path / "data" / name, data, np.zeros_like(data), body, {}, (1, 32, 32), half=True)
        cases.append(PoolCase(name, "data", data.shape[1:], False, name, len(body), subject))
    return Pool(tmp_path, tuple(cases), "origin")


def test_thinning_a_pool_and_its_report(pool: Pool, tmp_path: Path) -> None:
    known = known_slices(pool, "", slice_hashes(pool, tmp_path / "s.npz", 1))
    thinned = thin(pool, known, 4, 0.05)
    assert thinned.kept is not None
    assert [thinned.kept.of(i).tolist() for i in range(3)] == [[0, 1, 2, 3, 4, 5], [5], [0, 3]]
    report = thinning_report(pool, thinned, known, 4, 0.05)
    assert {k: report[k] for k in ("slices", "kept", "empty", "near_duplicates")} == {
        "slices": 21, "kept": 9, "empty": 3, "near_duplicates": 9
    }  # fmt: skip
    assert report["cases"][2] == {"case": "b", "slices": 9, "kept": 2, "empty": 3, "near_duplicates": 4}
    with pytest.raises(NnsslError, match="every slice of the pool is empty"):
        thin(pool, known, 4, 100.0)


def test_a_case_without_slices_of_its_own_is_left_out(pool: Pool, tmp_path: Path) -> None:
    known = known_slices(pool, "", slice_hashes(pool, tmp_path / "s.npz", 1))
    known["", "a1"] = known["", "a0"]
    thinned = thin(pool, known, 4, 0.05)
    assert [c.name for c in thinned.cases] == ["a0", "b"]
    assert thinned.kept is not None and thinned.kept.of(1).tolist() == [0, 3]


def test_hashes_are_computed_once_and_again_for_other_cases(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    first = slice_hashes(pool, path, 1)
    hashes, _ = _of_case(str(pool.image_path(0)))
    assert first.hashes[:6].tolist() == hashes.tolist()
    written = path.stat().st_mtime_ns
    again = slice_hashes(pool, path, 1, compute=False)
    assert again.hashes.tolist() == first.hashes.tolist()
    assert path.stat().st_mtime_ns == written
    os.utime(pool.image_path(0), ns=(written + 10**9, written + 10**9))  # preprocessed again
    slice_hashes(pool, path, 1)
    assert path.stat().st_mtime_ns > written
    path.write_bytes(b"PK not a zip")
    assert slice_hashes(pool, path, 1).hashes.tolist() == first.hashes.tolist()


def test_an_unreadable_case_is_named(pool: Pool, tmp_path: Path) -> None:
    pool.image_path(1).write_bytes(b"broken")
    with pytest.raises(NnsslError, match=r"1 case\(s\).*a1"):
        slice_hashes(pool, tmp_path / "s.npz", 1)
    assert not (tmp_path / "s.npz").exists()


def test_kept_slices_hold_empty_cases_too() -> None:
    kept = KeptSlices.of_cases([[1, 5], [], [0]])
    assert [kept.of(i).tolist() for i in range(3)] == [[1, 5], [], [0]]
    assert kept.counts().tolist() == [2, 0, 1]
