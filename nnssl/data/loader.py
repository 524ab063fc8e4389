"""The loader: a torch DataLoader over step numbers. Workers only read; views are made on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nnssl.data.cache import CaseCache
from nnssl.data.parallel import ignore_signals
from nnssl.data.pool import Pool
from nnssl.data.readahead import LARGEST, ReadAhead
from nnssl.data.sampling import CropPlace, CropSampler
from nnssl.data.store import CaseReader
from nnssl.data.subjects import groups
from nnssl.errors import NnsslError

Item: TypeAlias = dict[str, Any]
"""Tensors by name, see `CropDataset`."""
ERROR = "error"
BATCHES_READY = 4
"""Batches that each reading process holds ready, in shared memory."""


class NumberedBatches(Dataset[Item]):
    """Batches by number, and the files behind each.

    Attributes:
        cache: of unpacked cases; then the reading processes must be forked.
    """

    cache: CaseCache | None

    def files(self, number: int) -> list[Path]:
        """Those of a batch that are worth naming to the system beforehand, see `nnssl.data.readahead`."""
        raise NotImplementedError


class CropDataset(NumberedBatches):
    """Item number s is this rank's share of the batch of step s.

    Args:
        pool: cases.
        sampler: places crops of size (Z, Y, X).
        batch_size: crops per step over all ranks.
        share: this rank's part of the batch, a range of positions in [0, batch_size).
        two_d: drop the leading axis of length one.
        partners: also read every crop's partner, see `CropSampler.partner`.
        cache: of unpacked cases; then the reading processes must be forked.
        check: called with the path of a case before it is opened, see `nnssl.data.checksums.FirstReads`.
    """

    def __init__(
        self,
        pool: Pool,
        sampler: CropSampler,
        batch_size: int,
        share: range,
        two_d: bool,
        partners: bool = False,
        cache: CaseCache | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self.pool = pool
        self.sampler = sampler
        self.batch_size = batch_size
        self.share = share
        self.two_d = two_d
        self.partners = partners
        self.cache = cache
        self.check = check
        self._groups = groups([case.subject for case in pool.cases])
        self._reader: CaseReader | None = None  # opened in the worker, never carried across a fork

    def _numbers(self, step: int) -> list[int]:
        return [step * self.batch_size + i for i in self.share]

    def files(self, number: int) -> list[Path]:
        """Neither of cases that are unpacked in memory nor of those that are much larger than a crop."""
        largest, found = LARGEST * prod(self.sampler.size), list[Path]()
        for case in (case for n in self._numbers(number) for case in self.sampler.cases(n, self.partners)):
            image = self.pool.image_path(case)
            if prod(self.pool.cases[case].shape) <= largest and not (self.cache and self.cache.holds(image)):
                found += [image, self.pool.body_path(case)] if self.pool.cases[case].body else [image]
        return found

    def __getitem__(self, step: int) -> Item:
        """`images` (b, C, *size), `inside` (b, dim, 2) int64, `case` (b,) int64, and the same under `partner_*`.

        See nnssl.methods.CropBatch. A reading process hands over an error that a user can mend as it is: torch would make a
        traceback of its text.

        Raises:
            NnsslError: a case is damaged, in a process that is no reading process.
        """
        try:
            return self.batch(step)
        except NnsslError as error:
            if get_worker_info() is None:
                raise
            return {ERROR: error}

    def batch(self, step: int) -> Item:
        """As `__getitem__`; errors are raised everywhere."""
        numbers = self._numbers(step)
        places = [self.sampler(n) for n in numbers]
        item = self._read(places)
        if self.partners:
            partners = self._read([self.sampler.partner(n, place) for n, place in zip(numbers, places)])
            item |= {f"partner_{key}": value for key, value in partners.items()}
        return item

    def _read(self, places: list[CropPlace]) -> Item:
        if self._reader is None:
            self._reader = CaseReader(unpacked=None if self.cache is None else self.cache.array, check=self.check)
        images, inside, cases = [], [], []
        for place in places:
            crop, box = self._reader.crop(self.pool.image_path(place.case), place.lower, self.sampler.size)
            images.append(crop[:, 0] if self.two_d else crop)
            inside.append(box[1:] if self.two_d else box)
            cases.append(self._groups[place.case])
        types = {image.dtype for image in images}
        stacked = np.stack(images) if len(types) == 1 else np.stack([i.astype(np.float32) for i in images])
        return {
            "images": torch.from_numpy(stacked),
            "inside": torch.from_numpy(np.stack(inside)),
            "case": torch.tensor(cases),
        }


class EpochsDataset(NumberedBatches):
    """The batches of a run in the order of their use: those of an epoch, the validation's, those of the next epoch.

    So the reading processes go over from training to validation and back without a pause, and read ahead as ever.

    Args:
        training, validation: where the batches are from.
        iterations: batches of training per epoch.
        val_iterations: batches of validation behind them, the first ones in every epoch.
    """

    def __init__(self, training: CropDataset, validation: CropDataset, iterations: int, val_iterations: int) -> None:
        self.cache = training.cache
        self.training, self.validation = training, validation
        self.iterations, self.val_iterations = iterations, val_iterations

    def number(self, epoch: int, step: int) -> int:
        """Of the batch that is due after `step` steps of an epoch; after all of them it is the validation's first."""
        return epoch * (self.iterations + self.val_iterations) + step

    def _place(self, number: int) -> tuple[CropDataset, int]:
        epoch, place = divmod(number, self.iterations + self.val_iterations)
        if place < self.iterations:
            return self.training, epoch * self.iterations + place
        return self.validation, place - self.iterations

    def files(self, number: int) -> list[Path]:
        """As of the dataset that the batch is from."""
        dataset, step = self._place(number)
        return dataset.files(step)

    def __getitem__(self, number: int) -> Item:
        """As of the dataset that the batch is from."""
        dataset, step = self._place(number)
        return dataset[step]


class _NamedAhead(Dataset[Item]):
    """The same batches; in every reading process, files of those that it will read soon are named to the system."""

    def __init__(self, dataset: NumberedBatches, end: int, batches: int) -> None:
        self.dataset = dataset
        self._ahead = ReadAhead(dataset.files, end, batches)

    def __getitem__(self, number: int) -> Item:
        worker = get_worker_info()
        self._ahead.before(number, worker.num_workers if worker else 1)
        return self.dataset[number]


class _Steps(torch.utils.data.Sampler[int]):
    def __init__(self, steps: range) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Batches(DataLoader[Item]):
    """Raises what went wrong in a reading process."""

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        for item in super().__iter__():
            if ERROR in item:
                raise item[ERROR]
            yield item


def crop_loader(
    dataset: NumberedBatches, steps: range, workers: int, pin: bool, readahead: int = 0
) -> DataLoader[Item]:
    """Batches of the given numbers, in order. Iterating over it raises NnsslError where a case is damaged.

    Args:
        dataset: what to read.
        steps: numbers of the batches, one after the other.
        workers: reading processes; 0 = read in this one.
        pin: page-locked memory, for copies to a GPU that do not wait.
        readahead: batches of each reading process whose files are named to the system beforehand; 0 = none.
    """
    return _Batches(
        _NamedAhead(dataset, steps.stop, readahead),
        batch_size=None,
        sampler=_Steps(steps),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=BATCHES_READY if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer if workers else None,
        multiprocessing_context="fork" if workers and dataset.cache is not None else None,
        generator=torch.Generator().manual_seed(0),  # the loader draws a base seed; it must not touch the global one
    )


def _leave_signals_to_the_trainer(_worker: int) -> None:
    ignore_signals()


def rank_share(batch_size: int, rank: int, world_size: int) -> range:
    """The part of a batch that a rank handles; parts differ by at most one crop and none is empty if B >= ranks."""
    low, high = (batch_size * r // world_size for r in (rank, rank + 1))
    return range(low, high)
