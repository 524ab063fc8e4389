"""The learning curve of a cell whose training goes on."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

import pytest

from nnssl.evaluate.study.cell_trainer import _forget_later

CURVE = "step,seconds,train_loss,dice\n0,1.5,,0.1\n5,4.25,0.9,0.2\n10,8.0,0.8,0.3\n15,11.0,0.7,0.4\n"


def test_points_that_come_again_are_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    assert _forget_later(path, 5) == 0.0
    path.write_text(CURVE)
    assert _forget_later(path, 10) == 8.0
    with path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "5", "10"]
    assert [p.name for p in tmp_path.iterdir()] == ["curve.csv"]


def test_points_that_do_not_come_again_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(CURVE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="full"):
        _forget_later(path, 10)
    assert path.read_text() == CURVE
