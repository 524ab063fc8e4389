from __future__ import annotations

from pathlib import Path

import pytest

from nnssl.data import memory
from nnssl.data.memory import check_memory, usable_memory
from nnssl.data.parallel import Failure


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CGROUPS", (str(group),))
    plain = usable_memory()
    group.write_text("max\n")
    assert usable_memory() == plain
    group.write_text("1000000\n")
    assert usable_memory() == 1_000_000


def test_an_image_must_fit_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: 8 * 100**3)
    check_memory((100, 100, 100))
    with pytest.raises(Failure, match=r"^frames, 100x100x101 voxels need 0 GiB as float32, there are 0 GiB of memory"):
        check_memory((100, 100, 101), "frames, ")


def test_numbers_beyond_every_integer_type_are_only_large() -> None:
    with pytest.raises(Failure, match="GiB of memory"):
        check_memory([2**62] * 7)
