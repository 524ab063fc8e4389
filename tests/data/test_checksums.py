from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnssl.data.checksums import check_sizes, checksum_of, damaged_files, has_checksums
from nnssl.data.pool import Pool, PoolCase, index_path, read_pool, write_pool
from nnssl.errors import NnsslError
from tests.data.test_store import store


def pool_of(folder: Path) -> Pool:
    store(folder / "data", half=True)
    case = PoolCase("case", "data", (9, 12, 7), False, "ab", 3, checksum=checksum_of(folder / "data" / "case"))
    write_pool(Pool(folder, (case,), "x"), "data")
    return read_pool(folder, "data")


def test_a_whole_pool_passes(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    assert has_checksums(pool.cases[0])
    check_sizes(pool)
    assert damaged_files(pool, 0) == []


@pytest.mark.parametrize("suffix", [".b2nd", "_seg.b2nd", "_body.npy"])
def test_any_flipped_bit_is_found_and_named(tmp_path: Path, suffix: str) -> None:
    pool = pool_of(tmp_path)
    path = tmp_path / "data" / f"case{suffix}"
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 20)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert damaged_files(pool, 0) == [f"{path} is not what was written (checksum)"]
        check_sizes(pool)  # the cheap look at the start of a run cannot see it


def test_a_file_cut_short_or_lost_is_refused_at_the_start(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    path = tmp_path / "data" / "case.b2nd"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NnsslError, match=r"case\.b2nd has .* bytes, .* were written.*nnssl_plan_and_preprocess"):
        check_sizes(pool)
    path.unlink()
    with pytest.raises(NnsslError, match=r"case\.b2nd is missing"):
        check_sizes(pool)


def test_folders_of_earlier_versions_have_none_and_work(tmp_path: Path) -> None:
    pool = pool_of(tmp_path)
    path = index_path(tmp_path, "data")
    content = json.loads(path.read_text())
    del content["cases"][0]["checksum"]
    content["cases"][0]["of_a_later_version"] = [1]
    path.write_text(json.dumps(content))
    old = read_pool(tmp_path, "data")
    assert not has_checksums(old.cases[0])
    check_sizes(old)
    assert old.signature == pool.signature, "a run that began before must go on"
    assert not has_checksums(replace(old.cases[0], checksum="later:form"))
