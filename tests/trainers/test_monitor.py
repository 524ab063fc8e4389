from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nnssl.trainers.monitor import Monitor


def slow_batches() -> Iterator[int]:
    for number in range(4):
        time.sleep(0.05)
        yield number


def test_waiting_in_the_validation_is_counted_by_itself(tmp_path: Path) -> None:
    """What lies before it, and the work on its batches, is no waiting; and no validation has waited for the last one."""
    monitor = Monitor(tmp_path, total=1, done=0, batch_size=1, enabled=False)
    rates = monitor.rates()
    time.sleep(0.5)
    seen = []
    for number in monitor.validation(slow_batches()):
        seen.append(number)
        time.sleep(0.05)
    assert seen == [0, 1, 2, 3]
    share = monitor.validation_rates()["val_data_wait"]
    assert 0.25 < share < 0.75
    row = {"epoch": 0, "train_loss": 1.0, "val_loss": 1.0, "lr": 0.1, "seconds": 1.0, "data_wait": 0.01}
    line = monitor.epoch({**row, **rates, "data_wait": 0.01, "val_data_wait": 0.5}, [row], 2)
    assert "waiting for data 1 % (validation 50 %)  " in line
    for _ in monitor.validation(iter(range(3))):
        time.sleep(0.02)
    assert monitor.validation_rates()["val_data_wait"] < 0.2
    monitor.close()


@pytest.mark.parametrize("columns", [{"val_data_wait": 0.0}, {}])
def test_rows_of_runs_without_the_column_can_be_shown(tmp_path: Path, columns: dict[str, float]) -> None:
    monitor = Monitor(tmp_path, total=1, done=0, batch_size=1, enabled=False)
    row = {"epoch": 0, "train_loss": 1.0, "val_loss": 1.0, "lr": 0.1, "seconds": 1.0, **monitor.rates(), **columns}
    assert ("(validation 0 %)" in monitor.epoch(row, [row], 2)) == bool(columns)
    monitor.close()
