from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.data import readahead
from nnssl.data.loader import CropDataset, EpochsDataset, crop_loader
from nnssl.data.pool import Pool, PoolCase
from nnssl.data.sampling import TRAINING, VALIDATION, CropSampler
from nnssl.data.store import save_case

SIZE, BATCH = (5, 6, 4), 2
ITERATIONS, VAL_ITERATIONS, EPOCHS = 3, 2, 3


@pytest.fixture
def datasets(tmp_path: Path) -> tuple[CropDataset, CropDataset]:
    """Of training and validation, from other cases."""
    rng = np.random.default_rng(0)
    found = []
    for stream, count in ((TRAINING, 5), (VALIDATION, 3)):
        folder = tmp_path / str(stream)
        folder.mkdir()
        for i in range(count):
            image, body = rng.standard_normal((1, 7, 8, 6)), np.zeros((0, 3), np.int32)
            save_case(folder / f"c{i}", image, np.zeros((1, 7, 8, 6), np.int8), body, {}, (4, 4, 4), half=True)
        pool = Pool(tmp_path, tuple(PoolCase(f"c{i}", str(stream), (7, 8, 6), False) for i in range(count)))
        found.append(CropDataset(pool, CropSampler(pool, SIZE, 0, stream, 0.5), BATCH, range(BATCH), False))
    return found[0], found[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("begin", [(0, 0), (1, 2), (1, ITERATIONS), (2, 0)], ids=str)
def test_a_run_reads_training_and_validation_in_turns(
    datasets: tuple[CropDataset, CropDataset], begin: tuple[int, int], workers: int
) -> None:
    """From anywhere: the same crops as of two loaders. After all steps of an epoch its validation is still to come."""
    training, validation = datasets
    wanted = []
    for epoch in range(begin[0], EPOCHS):
        steps = range(begin[1] if epoch == begin[0] else 0, ITERATIONS)
        wanted += [training[epoch * ITERATIONS + step] for step in steps]
        wanted += [validation[step] for step in range(VAL_ITERATIONS)]
    run = EpochsDataset(training, validation, ITERATIONS, VAL_ITERATIONS)
    numbers = range(run.number(*begin), run.number(EPOCHS, 0))
    got = list(crop_loader(run, numbers, workers, pin=False, readahead=2))
    for a, b in zip(wanted, got, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_coming_batches_of_both_are_named_once(
    datasets: tuple[CropDataset, CropDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[Path] = []
    monkeypatch.setattr(readahead, "fetch", lambda paths: named.extend(paths))
    training, validation = datasets
    run = EpochsDataset(training, validation, ITERATIONS, VAL_ITERATIONS)
    batches = iter(crop_loader(run, range(run.number(EPOCHS, 0)), 0, pin=False, readahead=VAL_ITERATIONS))
    for _ in range(2):
        next(batches)
    coming = [*map(training.files, range(3)), validation.files(0)]
    assert named == [path for files in coming for path in files], "the validation's before the epoch has ended"
    assert sum(1 for _ in batches) == run.number(EPOCHS, 0) - 2
    assert len(named) == EPOCHS * (ITERATIONS + VAL_ITERATIONS) * BATCH
